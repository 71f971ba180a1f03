"""The role alone: a proven engine on the internal network, with the key that was given."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

SERVICE = "/opt/llm/services/micro-cpu"


@pytest.fixture
def container(host: Host) -> dict[str, object]:
    """Docker's inspection of the service's only container."""
    name = host.check_output("docker ps --filter label=llm.service=micro-cpu --format '{{.Names}}'")
    found: list[dict[str, object]] = json.loads(host.check_output(f"docker inspect {name}"))
    assert len(found) == 1
    return found[0]


def test_the_container_is_that_of_the_current_release(host: Host, container: dict[str, object]) -> None:
    release = host.check_output(f"basename $(readlink {SERVICE}/current)")
    assert container["Name"] == f"/llm-micro-cpu-{release[:8]}"
    assert container["Config"]["Labels"]["llm.release"] == release  # type: ignore[index] # Docker's own shape


def test_the_engine_takes_the_given_key_and_no_other(host: Host, container: dict[str, object]) -> None:
    networks = container["NetworkSettings"]["Networks"]  # type: ignore[index] # Docker's own shape
    address = networks["llm"]["IPAddress"]
    for key, wanted in (("sk-given-by-the-operator", 200), ("sk-another", 401)):
        script = f"""python3 - <<'EOF'
import urllib.request, urllib.error
request = urllib.request.Request("http://{address}:8000/v1/models", headers={{"Authorization": "Bearer {key}"}})
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
EOF"""
        assert int(host.check_output(script)) == wanted


def test_the_engine_has_no_way_out(host: Host, container: dict[str, object]) -> None:
    """The machine reaches its router (which refuses the port); the engine does not get that far."""
    name = str(container["Name"]).lstrip("/")
    router = host.check_output("ip route show default").split()[2]
    probe = f"import socket; socket.create_connection(('{router}', 1), timeout=3)"
    from_machine = host.run(f'python3 -c "{probe}"')
    from_engine = host.run(f'docker exec {name} python3 -c "{probe}"')
    assert "ConnectionRefusedError" in from_machine.stderr
    assert "timed out" in from_engine.stderr or "unreachable" in from_engine.stderr


def test_the_release_can_be_explained_and_has_no_key_in_it(host: Host) -> None:
    record = json.loads(host.file(f"{SERVICE}/current/release.json").content_string)
    assert record["facts"]["model"]["name"] == "smollm2-135m-instruct"
    assert (
        host.run(f"grep -r sk-given-by-the-operator {SERVICE} --include=*.yml -l")
        .stdout.strip()
        .endswith("secrets/engine.yml")
    )
