"""Every file that is rendered for a host, for every service of the catalogs, before any host sees it."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.gateway import acme
from ansible.module_utils.llm.plan import changes, compose, placement, supervisor

from tests import catalogs, hosts
from tests.rendered import gateway, template

BIN = catalogs.ROOT / ".venv" / "bin"
SERVICES = [
    ("demo", "micro-cpu"),
    *(("rtx4090x3", s) for s in catalogs.raw("rtx4090x3")["services"] if s != "micro-cpu"),
]


def rendered(inventory: str, service: str, folder: Path, **host: Any) -> Path:
    declared = catalogs.declared(inventory, host_services=[service], force=[service], **host)
    release = compose.release(declared, declared.services[service], "sha256:" + "a" * 64, "digest")
    path = folder / "compose.yml"
    path.write_text(yaml.safe_dump(release.compose, sort_keys=False))
    return path


@pytest.mark.engine  # Compose comes with the engine; `make check` works without one
@pytest.mark.parametrize("runtime", ["cdi", "nvidia"])
@pytest.mark.parametrize(("inventory", "service"), SERVICES)
def test_compose_accepts_it(inventory: str, service: str, runtime: str, tmp_path: Path) -> None:
    path = rendered(inventory, service, tmp_path, gpu_runtime=runtime)
    accepted(path)


def accepted(path: Path) -> None:
    argv = ["docker", "compose", "--file", str(path), "config", "--quiet"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr


@pytest.mark.parametrize(("inventory", "service"), SERVICES)
def test_compose_lint_is_content(inventory: str, service: str, tmp_path: Path) -> None:
    path = rendered(inventory, service, tmp_path)
    lint(path)


def lint(path: Path) -> None:
    argv = [
        str(BIN / "compose-lint"),
        "--fail-on",
        "medium",
        "--config",
        str(catalogs.ROOT / ".compose-lint.yml"),
        str(path),
    ]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("address", "written"), [("192.0.2.1", "192.0.2.1"), ("::", "[::]"), ("::1", "[::1]")])
def test_the_gateway_publishes_on_addresses_of_both_kinds(address: str, written: str) -> None:
    declared = catalogs.declared("demo", bind_address=address)
    routes = changes.routes(declared, hosts.facts())
    document = yaml.safe_load(gateway(declared, routes, "compose.yml.j2", gateway_bind_address=address))
    assert f"{written}:5010:5010" in document["services"]["gateway"]["ports"]
    assert " localhost 127.0.0.1 [::1]" in gateway(declared, routes, "haproxy.cfg.j2"), "as a Host header has it"


def test_the_services_own_ports_are_published_where_they_are_to_be() -> None:
    declared = catalogs.declared("rtx4090x3", bind_address="192.0.2.1", gateway={"ports_address": "::1"})
    routes = changes.routes(declared, hosts.facts())
    text = gateway(declared, routes, "compose.yml.j2", gateway_bind_address="192.0.2.1")
    published = yaml.safe_load(text)["services"]["gateway"]["ports"]
    own = [f"[::1]:{r['port']}:{r['port']}" for r in routes]
    assert own and published == ["192.0.2.1:443:443", "192.0.2.1:80:80", *own]


@pytest.mark.parametrize(("inventory", "count"), [("demo", 1), ("rtx4090x3", 2)])
def test_the_gateway_has_a_door_for_every_service(inventory: str, count: int, tmp_path: Path) -> None:
    declared = catalogs.declared(inventory)
    routes = changes.routes(
        declared, hosts.facts(releases={placement.deployed(declared)[0]: hosts.released(current="0123456789ab")})
    )
    assert len(routes) == count
    config = gateway(declared, routes, "haproxy.cfg.j2")
    document = yaml.safe_load(gateway(declared, routes, "compose.yml.j2"))
    for route in routes:
        assert f"bind :{route['port']}\n" in config
        assert f"127.0.0.1:{route['port']}:{route['port']}" in document["services"]["gateway"]["ports"]
    assert config.count(" disabled\n") == count - 1, "a service without a release is closed, and gets 503"
    assert "option http-no-delay" in config
    path = tmp_path / "compose.yml"
    path.write_text(yaml.safe_dump(document))
    lint(path)


def test_the_log_counts_all_that_a_request_waits_for() -> None:
    """HAProxy's own `%Tw` and `%Tr` begin after its rules, which is where requests wait for an engine."""
    declared = catalogs.declared("demo")
    routes = changes.routes(declared, hosts.facts())
    config, program = (gateway(declared, routes, name) for name in ("haproxy.cfg.j2", "door.lua.j2"))
    (form,) = [line for line in config.splitlines() if line.lstrip().startswith("log-format ")]
    for name in ("wait_ms", "queue_ms", "first_byte_ms", "total_ms"):
        assert f'"{name}":%' in form
    assert "%Tr" not in form
    logged = set(re.findall(r"txn\.\w+", form))
    assert logged >= {"txn.waited", "txn.first_byte"}
    assert logged <= {
        *re.findall(r"set-var(?:-fmt)?\((txn\.\w+)\)", config),
        *re.findall(r'set_var\("(txn\.\w+)"', program),
    }


def test_an_engine_of_several_is_set_aside_when_the_supervisor_would_call_it_hung() -> None:
    declared = catalogs.declared("rtx4090x3")
    slow = declared.services[placement.deployed(declared)[0]]
    changed = {slow.name: dataclasses.replace(slow, liveness={"progress_timeout": 180})}
    declared = dataclasses.replace(declared, services={**declared.services, **changed})
    routes = changes.routes(declared, hosts.facts())
    assert "STALLED = {\n}\n" in gateway(declared, routes, "door.lua.j2"), (
        "one that is alone gets all, whatever it does"
    )
    routes = [{**route, "model": "shared"} for route in routes]
    text = gateway(declared, routes, "door.lua.j2")
    rules = supervisor.plan(declared)["config"]["services"]
    assert {name: service["rules"]["progress_timeout"] for name, service in rules.items()} == {
        name: int(seconds) for name, seconds in re.findall(r'^    \["([\w-]+)"\] = (\d+),$', text, re.MULTILINE)
    }
    assert sorted(service["rules"]["progress_timeout"] for service in rules.values()) == [60, 180]


ACME = {"email": "ops@example.org", "terms_agreed": True}


def test_by_acme_the_gateway_has_one_open_path_more_and_at_its_plain_port_alone() -> None:
    declared = catalogs.declared("rtx4090x3", domain="llm.example.org", gateway={"acme": ACME})
    routes = changes.routes(declared, hosts.facts())
    config = gateway(declared, routes, "haproxy.cfg.j2")
    (line,) = [text for text in config.splitlines() if "str(acme_challenge)" in text]
    assert "{ dst_port 80 } { method GET } { path_reg ^/\\.well-known/acme-challenge/[A-Za-z0-9_-]+$ }" in line
    backend, server = acme.BACKEND.split("/")
    assert (
        config.partition(f"backend {backend}\n")[2]
        .partition("\n\n")[0]
        .endswith(f"server {server} {names.ACME}:{acme.LISTENER} resolvers docker init-addr none")
    )
    assert "acme" not in gateway(catalogs.declared("rtx4090x3"), routes, "haproxy.cfg.j2")


@pytest.mark.parametrize("ca_file", ["", "/etc/ca.pem"])
def test_compose_lint_knows_all_of_the_acme_client(ca_file: str, tmp_path: Path) -> None:
    declared = catalogs.declared(
        "rtx4090x3", domain="llm.example.org", gateway={"acme": {**ACME, **({"ca_file": ca_file} if ca_file else {})}}
    )
    text = gateway(declared, [], "acme.yml.j2", gateway_acme_image="llm/acme:1")
    service = yaml.safe_load(text)["services"]["acme"]
    assert service["networks"] == [names.FRONT_NETWORK], "a way out, and none to the engines"
    assert ("LEGO_CA_CERTIFICATES" in service["environment"]) is bool(ca_file)
    path = tmp_path / "compose.yml"
    path.write_text(text)
    lint(path)


def test_compose_lint_knows_all_of_the_supervisor(tmp_path: Path) -> None:
    values = {"image": "llm/vllm:1", "root": "/opt/llm", "systemd": True, "config": {"interval": 5}}
    path = tmp_path / "compose.yml"
    path.write_text(
        template("engine_supervisor", "compose.yml.j2", **{f"engine_supervisor_{k}": v for k, v in values.items()})
    )
    lint(path)
