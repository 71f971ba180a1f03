"""The source that delivered is written down, and what a hub leaves for its own use is not kept."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_the_second_source_delivered(host: Host) -> None:
    manifest = json.loads(host.file("/opt/llm/models/tiny/v1/manifest.json").content_string)
    assert manifest["origin"] == {"source": "hub acme/tiny", "revision": "v1"}


def test_the_hub_s_own_folder_is_gone(host: Host) -> None:
    assert host.check_output("find /opt/llm/models -name .cache") == ""
