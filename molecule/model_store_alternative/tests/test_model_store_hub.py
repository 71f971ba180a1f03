"""The source and the commit that delivered are written down; what a hub and its library leave for their own use is not kept."""

from __future__ import annotations

import hashlib
import json

from testinfra.host import Host


def test_the_second_source_delivered(host: Host) -> None:
    manifest = json.loads(host.file("/opt/llm/models/tiny/v1/manifest.json").content_string)
    # The stand-in's commits are made of the branches' names.
    commit = hashlib.sha1(b"v1").hexdigest()
    assert manifest["origin"] == {"source": "hub acme/tiny", "revision": "v1", "commit": commit}


def test_the_hub_s_own_folders_are_gone(host: Host) -> None:
    assert host.check_output("find /opt/llm/models -name '.hub' -o -name .cache -o -name '.*partial'") == ""
    assert not host.file("/root/.cache/huggingface").exists


def test_the_token_is_on_no_disk_but_the_hub_s(host: Host) -> None:
    # The names count, not the status: a file that goes away while it is read is no answer. The stand-in shows that grep finds.
    hub = "/usr/local/bin/stand_in_hub.py"
    found = host.run(f"grep -rlF hf_good {hub} /opt/llm /root /tmp /var/log /var/tmp")
    assert found.stdout.split() == [hub], found.stderr
