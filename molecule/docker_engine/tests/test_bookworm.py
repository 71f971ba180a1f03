"""Debian 12: systemd keeps the engine, and Compose is the pinned one."""

from __future__ import annotations

from testinfra.host import Host

testinfra_hosts = ["ansible://llm-docker-bookworm"]


def test_engine_is_a_service(host: Host) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


def test_compose_stands_alone(host: Host) -> None:
    """The pinned plugin is a file of its own, nothing that goes with a Python environment."""
    plugin = host.file("/usr/local/lib/docker/cli-plugins/docker-compose")
    assert plugin.exists
    assert not plugin.is_symlink
    assert (plugin.user, plugin.mode) == ("root", 0o755)
    assert host.run("ls -d /tmp/*.compose").rc != 0, "the role left its working folder behind"
