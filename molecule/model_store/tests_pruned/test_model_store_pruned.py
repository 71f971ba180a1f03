"""What nothing needs is gone, and no more than that."""

from __future__ import annotations

from testinfra.host import Host


def test_the_declared_revision_is_left(host: Host) -> None:
    assert host.check_output("ls -A /opt/llm/models/tiny") == "v2"
    assert host.check_output("ls -A /opt/llm/models/packed") == "main"


def test_no_half_state_is_left_where_the_disk_was_full(host: Host) -> None:
    assert host.check_output("ls -A /opt/llm/models/large") == ""


def test_an_archive_gives_what_was_packed(host: Host) -> None:
    assert host.check_output("diff -r --exclude manifest.json /srv/tiny-v1 /opt/llm/models/packed/main") == ""
