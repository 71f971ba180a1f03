"""The gateway of the demo on an address that neighbours reach, with names: who finds what, and what nobody finds."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.e2e.demo import MODEL, QUESTION, ROOT, SERVICE, WORD, Machine, Playbook
from tests.e2e.wire import Http1, Http2, Sent

pytestmark = pytest.mark.e2e

NAME = "llm-test-neighbour"
DOMAIN = "example.org"
PORTS = {"5010", "8080", "8443"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, "temperature": 0}
# Prints the addresses among its arguments that take a connection.
REACH = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reach(place):
    address, port = place.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), 2).close()
        return place
    except OSError:
        return ""
with ThreadPoolExecutor(64) as pool:
    print(*filter(None, pool.map(reach, sys.argv[1:])))
"""
SERVE = """
import socket
with socket.create_server(("", 9999)) as listener:
    while True:
        listener.accept()[0].close()
"""


@dataclass
class Neighbour:
    """A container on a network that has nothing to do with the project. address: of this machine, as it sees it."""

    container: Any
    address: str
    before: set[str]  # what it reached while the gateway was on loopback

    @property
    def own(self) -> str:
        """Its own address."""
        self.container.reload()
        return str(self.container.attrs["NetworkSettings"]["Networks"][NAME]["IPAddress"])

    def reaches(self, places: set[str]) -> set[str]:
        return reaches(self.container, places)


def reaches(container: Any, places: set[str]) -> set[str]:
    """Those of the places (address:port) that take connections from a container."""
    code, out = container.exec_run(["python3", "-c", REACH, *sorted(places)])
    assert code == 0, out
    return set(out.decode().split())


def addresses(container: Any) -> set[str]:
    """Addresses of a container on all its networks."""
    return {n["IPAddress"] for n in container.attrs["NetworkSettings"]["Networks"].values()}


def listening(table: str) -> set[str]:
    """Ports in a table of /proc/net/tcp that are listened to."""
    return {str(int(port, 16)) for port in re.findall(r"^ *\d+: \w+:(\w+) \w+:\w+ 0A ", table, re.MULTILINE)}


def places(machine: Machine, address: str) -> tuple[set[str], set[str]]:
    """(on the project's containers, on this machine): whatever listens anywhere, wherever it might answer."""
    pids, inside = ["self"], set()
    for container in (machine.engine(), machine.docker.containers.get("llm-supervisor"), machine.gateway()):
        pids.append(container.attrs["State"]["Pid"])
        inside |= addresses(container)
    tables = [Path(f"/proc/{pid}/net/{kind}").read_text() for pid in pids for kind in ("tcp", "tcp6")]
    ports = {p for table in tables for p in listening(table)} | {"2375", "2376", *PORTS}
    networks = [n for n in machine.docker.networks.list() if n.name in ("llm", "llm-front")]
    outside = {address} | {n.attrs["IPAM"]["Config"][0]["Gateway"] for n in networks}
    return {f"{a}:{p}" for a in inside for p in ports}, {f"{a}:{p}" for a in outside for p in ports}


@pytest.fixture(scope="module")
def neighbour(machine: Machine, playbook: Playbook, docker_client: docker.DockerClient) -> Iterator[Neighbour]:
    """The neighbour, while the gateway has a domain and an address on the neighbour's network. Both are gone afterwards."""
    network = docker_client.networks.create(NAME, driver="bridge")
    container = None
    try:
        network.reload()
        address = network.attrs["IPAM"]["Config"][0]["Gateway"]
        image = machine.engine().attrs["Image"]
        container = docker_client.containers.run(
            image, ["-c", SERVE], entrypoint=["python3"], network=NAME, name=NAME, detach=True, init=True
        )
        before = reaches(container, places(machine, address)[1])
        declared = {"llm_domain": DOMAIN, "llm_bind_address": address}
        playbook("site.yml", "--tags", "gateway", "-e", json.dumps(declared)).passed()
        yield Neighbour(container, address, before)
    finally:
        playbook("site.yml", "--tags", "gateway").passed()
        if container:
            container.remove(force=True)
        network.remove()
        machine.await_door()


def test_from_another_network_only_the_door_answers(neighbour: Neighbour, machine: Machine) -> None:
    inside, outside = places(machine, neighbour.address)
    assert neighbour.reaches(inside) == set(), "engines, supervisor and gateway have no port of their own"
    assert neighbour.reaches(outside) - neighbour.before == {f"{neighbour.address}:{port}" for port in PORTS}


def test_an_engine_reaches_nothing_beyond_its_network(neighbour: Neighbour, machine: Machine) -> None:
    place = f"{neighbour.own}:9999"
    assert neighbour.reaches({place}) == {place}, "it does listen"
    for container in (machine.engine(), machine.docker.containers.get("llm-supervisor")):
        assert reaches(container, {place}) == set()


class Named(http.client.HTTPSConnection):
    """HTTPS to an address under a name that no name server has."""

    def __init__(self, address: str, name: str) -> None:
        self.place = address, 8443
        context = ssl.create_default_context(cafile=str(ROOT / "gateway/ca/ca.pem"))
        super().__init__(name, 8443, context=context, timeout=120)
        self.context = context

    def connect(self) -> None:
        plain = http.client.HTTPConnection(*self.place, timeout=120)
        plain.connect()
        self.sock = self.context.wrap_socket(plain.sock, server_hostname=self.host)


def ask(connection: Named, path: str, key: str, body: Any = None) -> tuple[int, Any]:
    """(status, answer) of a request, with the key in the header that Anthropic's clients use."""
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    said = json.loads(answer.read())
    named = answer.headers["x-request-id"]
    assert named and said.get("request_id", named) == named and (answer.status == 200) == ("error" not in said), said
    return answer.status, said


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (f"api.{SERVICE}.{DOMAIN}", "/v1/chat/completions"),
        ("", f"/{SERVICE}/v1/chat/completions"),
        (f"api.{DOMAIN}", "/v1/chat/completions"),
    ],
    ids=["host name", "prefix", "model"],
)
def test_a_service_is_found_by_its_name_its_prefix_and_its_model(
    neighbour: Neighbour, machine: Machine, name: str, path: str
) -> None:
    status, said = ask(Named(neighbour.address, name or neighbour.address), path, machine.key, CHAT)
    assert status == 200 and WORD in said["choices"][0]["message"]["content"]


def test_what_leads_nowhere_is_said_in_the_dialect_that_was_spoken(neighbour: Neighbour, machine: Machine) -> None:
    gateway = Named(neighbour.address, f"api.{DOMAIN}")
    for path, opening in (("/v1/chat/completions", None), ("/v1/messages", "error")):
        for body, key, status, code in (
            ({**CHAT, "model": "gpt-9"}, machine.key, 404, "model_not_found"),
            ({}, machine.key, 400, "model_missing"),
            (CHAT, "sk-wrong", 401, "invalid_api_key"),
        ):
            got, said = ask(gateway, path, key, body)
            assert (got, said.get("type"), said["error"]["code"]) == (status, opening, code)
    assert ask(gateway, f"/{SERVICE}s/v1/models", machine.key)[0] == 404
    assert [m["id"] for m in ask(gateway, "/v1/models", machine.key)[1]["data"]] == [MODEL]
    stranger = Http1((neighbour.address, 8080)).ask(Sent("GET", "/v1/models?x=1", hosts=(f"api.{DOMAIN}",)))
    assert stranger[0] == 308, "plain HTTP is sent on to TLS"


def test_it_speaks_http_2(neighbour: Neighbour, machine: Machine) -> None:
    gateway = Http2((neighbour.address, 8443), ROOT / "gateway/ca/ca.pem")
    asked = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", f"api.{DOMAIN}"),
        (":path", "/v1/chat/completions"),
    ]
    asked += [("authorization", f"Bearer {machine.key}"), ("content-type", "application/json")]
    assert gateway.ask(asked, json.dumps(CHAT).encode()) == 200
    assert gateway.ask([*asked[:2], (":authority", "nobody.example.org"), *asked[3:]], b"{}") == 404
