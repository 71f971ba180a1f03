"""The door passes on what clients may ask, publishes nothing else, and is confined."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def container(host: Host) -> Any:
    """Docker's inspection of the gateway."""
    return json.loads(host.check_output("docker inspect llm-gateway"))[0]


def test_requests_reach_the_engine_of_the_service(ask: Ask) -> None:
    assert ask(5011, "/v1/models") == (200, "llm-first-11111111")
    assert ask(5011, "/health")[0] == 200


def test_a_service_without_a_release_says_so_in_json(ask: Ask) -> None:
    status, text = ask(5012, "/v1/models")
    assert (status, json.loads(text)["error"]["type"]) == (503, "service_unavailable")


def test_what_engines_offer_beside_stays_inside(ask: Ask) -> None:
    for path in ("/metrics", "/tokenize", "/"):
        status, text = ask(5011, path)
        assert status == 404 and json.loads(text)["error"]["type"] == "not_found", path


def test_the_gateway_alone_publishes_ports_and_on_loopback(host: Host) -> None:
    published = [
        line for line in host.check_output("docker ps --format '{{.Names}} {{.Ports}}'").splitlines() if "->" in line
    ]
    assert [line.split()[0] for line in published] == ["llm-gateway"]
    assert host.socket("tcp://127.0.0.1:5011").is_listening
    assert not host.socket("tcp://0.0.0.0:5011").is_listening


def test_it_is_confined(container: Any) -> None:
    settings = container["HostConfig"]
    assert container["Config"]["User"] == "64001:64001"
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["SecurityOpt"] and settings["Memory"] == 256 * 2**20
    assert set(container["NetworkSettings"]["Networks"]) == {"llm", "llm-front"}


def test_engines_have_no_way_out(host: Host) -> None:
    assert host.check_output("docker network inspect --format '{{.Internal}}' llm llm-front").split() == [
        "true",
        "false",
    ]


def test_what_is_loaded_is_written_down(host: Host, container: Any) -> None:
    loaded = host.file("/opt/llm/gateway/loaded").content_string.split()
    sums = host.check_output("cd /opt/llm/gateway && sha256sum compose.yml etc/haproxy.cfg").split()[::2]
    assert loaded == [*sums, container["Id"][:12]]
