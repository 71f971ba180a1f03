"""Switched off, it leaves what it wrote down, and no program."""

from __future__ import annotations

from testinfra.host import Host


def test_only_what_it_wrote_is_left(host: Host) -> None:
    assert "llm-supervisor" not in host.check_output("docker ps --all --format '{{.Names}}'")
    assert {"events.jsonl", "state.json"} == set(host.file("/opt/llm/supervisor").listdir())
