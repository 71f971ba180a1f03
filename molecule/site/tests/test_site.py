"""A client on each machine gets a right answer from that machine's own service, through the gateway alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from testinfra.host import Host

Ask = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Service:
    """What a machine serves."""

    name: str
    model: str
    port: int
    context: int

    @property
    def folder(self) -> str:
        return f"/opt/llm/services/{self.name}"

    @property
    def key_file(self) -> str:
        return f"/opt/llm/keys/{self.name}"


SERVICES = {
    "llm-site-one": Service("micro-cpu", "smollm2-135m-instruct", 5010, 2048),
    "llm-site-two": Service("short-cpu", "short", 5020, 512),
}


@pytest.fixture
def service(host: Host) -> Service:
    """The service of the machine."""
    return SERVICES[host.check_output("hostname")]


@pytest.fixture
def key(host: Host, service: Service) -> str:
    """The key that its clients use."""
    return str(host.check_output(f"cat {service.key_file}"))


def test_the_service_answers_through_the_gateway(ask: Ask, service: Service, key: str) -> None:
    question = {"role": "user", "content": "What is the capital of Japan?"}
    body = json.dumps({"model": service.model, "messages": [question], "temperature": 0, "max_tokens": 30})
    status, text = ask(service.port, "/v1/chat/completions", key, body)
    assert status == 200, text
    assert "Tokyo" in json.loads(text)["choices"][0]["message"]["content"]


def test_it_is_the_service_of_this_machine_with_its_flags(ask: Ask, service: Service, key: str) -> None:
    models = json.loads(ask(service.port, "/v1/models", key)[1])["data"]
    assert [(m["id"], m["max_model_len"]) for m in models] == [(service.model, service.context)]


def test_a_wrong_key_is_refused(ask: Ask, service: Service) -> None:
    assert ask(service.port, "/v1/models", "wrong")[0] == 401


def test_only_the_gateway_publishes_a_port(host: Host, service: Service) -> None:
    listed = host.check_output("docker ps --format '{{.Names}} {{.Ports}}'").splitlines()
    assert [line.split()[0] for line in listed if "->" in line] == ["llm-gateway"]
    listening = {port for port in (5010, 5020) if host.socket(f"tcp://127.0.0.1:{port}").is_listening}
    assert listening == {service.port}
    assert not host.socket(f"tcp://0.0.0.0:{service.port}").is_listening


def test_only_its_own_service_is_there(host: Host, service: Service) -> None:
    assert host.check_output("ls /opt/llm/services /opt/llm/keys").split() == [
        "/opt/llm/keys:",
        service.name,
        "/opt/llm/services:",
        service.name,
    ]


def test_keys_belong_to_root_and_to_the_engine(host: Host, service: Service) -> None:
    assert (host.file(service.key_file).user, host.file(service.key_file).mode) == ("root", 0o400)
    secret = host.file(f"{service.folder}/current/secrets/engine.yml")
    assert (secret.uid, secret.mode) == (64000, 0o400)


def test_the_engine_is_confined(host: Host, service: Service, key: str) -> None:
    name = host.check_output(f"docker ps --filter label=llm.service={service.name} --format '{{{{.Names}}}}'")
    found = json.loads(host.check_output(f"docker inspect {name}"))[0]
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["Config"]["User"] == "64000:64000"
    assert key not in json.dumps(found)
    assert host.run(f"docker exec {name} python3 -c \"open('/opt/x', 'w')\"").rc != 0


def test_the_release_is_current_and_proven(host: Host, service: Service) -> None:
    verdict = json.loads(host.file(f"{service.folder}/current/verdict.json").content_string)
    assert verdict["ok"] is True
