"""The engine that the role leaves behind is one that services can be run on."""

from __future__ import annotations

import json

from testinfra.host import Host

# A whole image without a registry: one program and the libraries that it is linked with.
HELLO = """cd / && \
tar --create --dereference bin/echo $(ldd /bin/echo | grep --only-matching '/lib[^ ]*' | cut --characters=2-) \
| docker import - hello:test"""
PROJECT = (
    "{services: {hello: {image: hello:test, command: [/bin/echo, composed], networks: [own]}}, networks: {own: {}}}"
)

HELD_ON_TRIXIE = ("docker.io", "docker-cli", "containerd", "docker-compose")


def version(text: str) -> tuple[int, int]:
    """First two numbers of a version such as v2.40.3 or 20.10.24+dfsg1."""
    major, minor = text.strip().lstrip("v").split(".")[:2]
    return int(major), int(minor)


def test_engine_answers(host: Host) -> None:
    assert version(host.check_output("docker version --format '{{.Server.Version}}'")) >= (20, 10)


def test_engine_has_its_settings_and_those_that_were_there(host: Host) -> None:
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {
        "labels": ["site=north"],
        "log-opts": {"labels-regex": "^own", "max-size": "20m", "max-file": "5"},
        "live-restore": True,
    }
    assert host.check_output("docker info --format '{{.LiveRestoreEnabled}} {{.Labels}}'") == "true [site=north]"


def test_packages_change_only_when_declared(host: Host) -> None:
    held = set(host.check_output("apt-mark showhold").split())
    wanted = {"docker.io", "containerd"} if host.system_info.release == "12" else set(HELD_ON_TRIXIE)
    assert held == wanted


def test_compose(host: Host) -> None:
    assert version(host.check_output("docker compose version --short")) >= (2, 20)


def test_hello(host: Host) -> None:
    host.check_output(HELLO)
    said = host.check_output("docker run --rm --read-only --cap-drop ALL --user 64000 hello:test /bin/echo hello")
    assert said == "hello"


def test_compose_runs_a_service(host: Host) -> None:
    host.check_output(HELLO)
    compose = f"echo '{PROJECT}' | docker compose --project-name hello --file - "
    try:
        assert "composed" in host.check_output(compose + "up --no-log-prefix 2>/dev/null")
    finally:
        host.run(compose + "down")
