"""A machine without systemd: nobody keeps the engine."""

from __future__ import annotations

from testinfra.host import Host

testinfra_hosts = ["ansible://llm-docker-trixie"]


def test_engine_outlives_the_run(host: Host) -> None:
    """Without systemd nobody keeps the engine: it must not hang on the run that started it, nor on a terminal."""
    fields = host.check_output("cat /proc/$(cat /run/docker.pid)/stat").rpartition(")")[2].split()
    parent, terminal = int(fields[1]), int(fields[4])
    assert (parent, terminal) == (1, 0)
    assert host.file("/var/log/docker.log").contains("API listen on")
