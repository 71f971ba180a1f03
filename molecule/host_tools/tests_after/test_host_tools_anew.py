"""After the lock changed the environment is a new one, not the old one with new packages in it."""

from __future__ import annotations

from testinfra.host import Host


def test_nothing_of_the_old_environment_is_left(host: Host) -> None:
    assert not host.file("/opt/llm/venv/lib/old.py").exists
