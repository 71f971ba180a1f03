"""Another revision is another folder: the first one stays for the release that runs on it."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_both_revisions_are_whole(host: Host) -> None:
    manifests = [
        json.loads(host.file(f"/opt/llm/models/tiny/{revision}/manifest.json").content_string)
        for revision in ("v1", "v2")
    ]
    assert [m["origin"]["revision"] for m in manifests] == ["v1", "v2"]
    assert manifests[0]["digest"] != manifests[1]["digest"]
