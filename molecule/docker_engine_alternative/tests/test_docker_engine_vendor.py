"""The vendor's packages in the declared versions, held; somebody's settings are still there."""

from __future__ import annotations

import json

from testinfra.host import Host

PACKAGES = {
    "docker-ce": "5:20.10.24-1~debian.12~bookworm",
    "docker-ce-cli": "5:20.10.24-1~debian.12~bookworm",
    "containerd.io": "1.6.20-1",
    "docker-compose-plugin": "2.26.1-1~debian.12~bookworm",
}


def test_declared_versions_are_installed_and_held(host: Host) -> None:
    for name, version in PACKAGES.items():
        assert host.check_output(f"dpkg-query --show --showformat '${{Version}}' {name}") == version
    assert set(host.check_output("apt-mark showhold").split()) == set(PACKAGES)


def test_an_upgrade_of_the_system_leaves_them(host: Host) -> None:
    planned = host.check_output("apt-get --simulate dist-upgrade")
    assert "kept back" in planned and "Inst docker-ce" not in planned


def test_the_repository_is_trusted_by_its_key_alone(host: Host) -> None:
    source = host.file("/etc/apt/sources.list.d/docker.sources").content_string
    assert "Signed-By: /etc/apt/keyrings/docker.asc" in source and "Suites: bookworm" in source
    assert host.file("/etc/apt/keyrings/docker.asc").content == host.file("/srv/vendor/gpg").content


def test_engine_and_compose(host: Host) -> None:
    assert host.check_output("docker version --format '{{.Server.Version}}'").startswith("20.10.24")
    assert host.check_output("docker compose version --short").startswith("2.26.1")
    assert host.service("docker").is_enabled and host.service("docker").is_running


def test_settings(host: Host) -> None:
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {
        "labels": ["site=north"],
        "live-restore": True,
        "log-opts": {"max-size": "20m", "max-file": "5"},
        "registry-mirrors": ["https://mirror.invalid"],
    }
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"] and info["Labels"] == ["site=north"]
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.invalid/"]
