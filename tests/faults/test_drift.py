"""A host that is no longer as it was left, and services that are to go: shown, repaired, stopped without cutting anybody off.

Docker, gateway, playbooks and files are real; the engine is a stub (stub/engine.py). tests/e2e and test_deploys.py do the same to
the demo's real one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible.module_utils.llm import compose

from tests.e2e.demo import Run
from tests.faults.stub.host import DECLARED, IMAGE, KEY, PORT, SERVICE, StubHost, differences

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def deployed(host: StubHost) -> StubHost:
    """The host with its service."""
    host.reset()
    host.run("site.yml").passed()
    return host


def engines(host: StubHost) -> list[Any]:
    """The service's containers. By name: an image that is made of one has its labels, and so has the supervisor that uses it."""
    found: list[Any] = host.client.containers.list(all=True, filters={"name": f"^llm-{SERVICE}-"})
    return found


def engine(host: StubHost) -> Any:
    """The service's only container."""
    (found,) = engines(host)
    return found


def shown_and_repaired(host: StubHost, *reasons: str) -> Run:
    """Check mode shows the reasons and touches nothing; a run repairs, and the next has nothing to do."""
    drifted = host.state()
    predicted = host.run("site.yml", "--check", "--diff").passed().says(*reasons)
    assert predicted.changed > 0 and differences(drifted, host.state()) == {}
    run = host.run("site.yml").passed().says(*reasons)
    assert run.changed > 0 and host.run("site.yml").passed().changed == 0
    return run


@contextmanager
def streaming(host: StubHost) -> Iterator[list[dict[str, Any]]]:
    """A client in the middle of an answer; its last word is there once the block is left."""
    client = host.ask(tokens=100_000)
    assert client.stdout
    first = json.loads(client.stdout.readline())
    assert first["status"] == 200 and first["pieces"] == 1
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(client.stdout or ()))
    reader.start()
    last: list[dict[str, Any]] = []
    try:
        yield last
    finally:
        reader.join(120)
        last.append(json.loads(read[-1]))


def let_finish(host: StubHost, run: Callable[[], Run]) -> None:
    """A run that ends the engine while a client is in the middle of an answer: that comes to its end, and new requests get 503."""
    container, runs = engine(host), list[Run]()
    with streaming(host) as last:
        thread = threading.Thread(target=lambda: runs.append(run()))
        thread.start()
        end = time.monotonic() + 120
        while host.status() != 503:
            assert time.monotonic() < end and thread.is_alive(), runs
        container.reload()
        assert container.status == "running", "stopped while an answer was being written"
        container.kill("SIGUSR1")
        thread.join()
    assert last[0]["finish"] == "length" and last[0]["pieces"] > 1, last
    runs[0].passed()


@pytest.mark.slow
@pytest.mark.fault(46, "a stopped service (engine: stub)")
def test_a_stopped_service_is_started_again(deployed: StubHost) -> None:
    before = deployed.state()
    engine(deployed).stop()
    shown_and_repaired(deployed, "container: exited -> running")
    assert differences(before, deployed.state()) == {}


@pytest.mark.slow
@pytest.mark.fault(46, "a tag that means another image (engine: stub)")
def test_a_tag_that_means_another_image_is_a_new_release(deployed: StubHost) -> None:
    before = engine(deployed)
    other = before.commit(changes=["LABEL other=yes"])
    deployed.client.images.get(other.id).tag(*IMAGE.split(":"))
    shown_and_repaired(deployed, f"image id: {before.attrs['Image']} -> {other.id}")
    assert engine(deployed).attrs["Image"] == other.id and deployed.status() == 200


@pytest.mark.slow
@pytest.mark.fault(47, "its container is listed, kept, and with llm_prune let finish and removed (engine: stub)")
def test_an_orphan_goes_only_when_asked(deployed: StubHost) -> None:
    name, gateway = engine(deployed).name, deployed.client.containers.get(compose.GATEWAY).id
    clients = deployed.root / "gateway/clients.json"
    deployed.run("playbooks/keys.yml", "-e", "llm_key_do=create", "-e", "llm_key_client=x", "-e", "llm_key_services=*")
    asked = [deployed.status() for _ in range(3)]
    nothing = ("-e", json.dumps({"llm_host_services": []}))
    told = f"{name} (running) is not wanted by the declaration; -e llm_prune=true removes it"
    before = deployed.state()
    run = (
        deployed.run("site.yml", "--check", "--diff", *nothing)
        .passed()
        .says(told, f"--- before: container {compose.GATEWAY}")
    )
    assert run.changed == 2 and f"-running, ports 80, 443, {PORT}\n" in run.stdout  # the supervisor goes as well
    assert differences(before, deployed.state()) == {}
    deployed.run("site.yml", *nothing).passed().says(told)
    assert engine(deployed).status == "running"
    assert deployed.status() == 0, "a door that leads nowhere is none"
    assert deployed.run("site.yml", *nothing).passed().changed == 0
    deployed.run("site.yml").passed()
    asked += [deployed.status()]
    assert asked == [200] * 4 and clients.exists()
    assert deployed.client.containers.get(compose.GATEWAY).id != gateway

    # What the gateway of before was asked counts as well.
    usage = deployed.run("playbooks/usage.yml").passed()
    used = json.loads((usage.report / "usage.json").read_text())["clients"][SERVICE]
    assert used["answered"] >= len(asked) and used["services"].keys() == {SERVICE} and used["total_ms"]["p95"] > 0
    assert usage.changed == 0 and SERVICE in usage.stdout and KEY not in usage.stdout + json.dumps(used)

    deployed.run("site.yml", "--check", *nothing, "-e", "llm_prune=true").passed()
    assert engine(deployed).status == "running"
    let_finish(deployed, lambda: deployed.run("site.yml", *nothing, "-e", "llm_prune=true"))
    assert not deployed.client.containers.list(all=True, filters={"name": f"^{compose.GATEWAY}$"})
    assert not engines(deployed)
    deployed.run("site.yml").passed()
    assert deployed.status() == 200


@pytest.mark.slow
def test_a_run_for_another_service_leaves_it_at_what_was_stopped(deployed: StubHost) -> None:
    other = {**DECLARED, "port": PORT + 1}
    both = {"llm_host_services": [SERVICE, "other"], "llm_services_custom": {SERVICE: DECLARED, "other": other}}
    declared, stopped = ("-e", json.dumps(both)), (503, "this service was stopped and is not serving")
    try:
        deployed.run("site.yml", *declared).passed()
        deployed.run("playbooks/stop.yml", *declared).passed()
        assert deployed.answer() == stopped
        for tag in ("other", "gateway"):
            deployed.run("site.yml", "--tags", tag, *declared).passed()
            assert deployed.answer() == stopped and engine(deployed).status == "exited", tag
        assert deployed.client.containers.list(filters={"name": "^llm-other-"})
        deployed.run("site.yml", *declared).passed()
        assert deployed.answer() == (200, "")
        assert deployed.run("site.yml", *declared).passed().changed == 0
    finally:
        deployed.run("site.yml", "-e", "llm_prune=true").passed()


@pytest.mark.slow
def test_models_that_nothing_needs_are_listed_and_go_only_when_asked(deployed: StubHost) -> None:
    home = deployed.root / "models" / SERVICE
    (kept,) = (p.name for p in home.iterdir())
    for name in ("old", f".{kept}.0123abcd.partial"):
        (home / name).mkdir()
        (home / name / "model.safetensors").write_bytes(bytes(2048))
    gone = deployed.root / "models/stranger/v1"
    gone.mkdir(parents=True)
    listed = [str(home / "old"), "2.00 KB", str(gone), f".{kept}.0123abcd.partial"]
    deployed.run("playbooks/status.yml").passed().says("`site.yml -e llm_prune=true` removes", *listed)
    assert deployed.run("site.yml").passed().changed == 0
    deployed.run("site.yml", "--check", "-e", "llm_prune=true").passed()
    assert len(list(home.iterdir())) == 3 and gone.is_dir()
    deployed.run("site.yml", "-e", "llm_prune=true").passed()
    assert [p.name for p in home.iterdir()] == [kept] and not gone.parent.exists()
    assert deployed.run("site.yml").passed().changed == 0 and deployed.status() == 200


def test_stop_lets_running_requests_finish_and_stays(deployed: StubHost) -> None:
    let_finish(deployed, lambda: deployed.run("playbooks/stop.yml"))
    assert engine(deployed).status == "exited"
    assert deployed.run("playbooks/stop.yml").passed().changed == 0
    deployed.run("site.yml").passed()
    assert engine(deployed).status == "running" and deployed.status() == 200


def test_a_service_declared_stopped_or_absent_finishes_and_goes(deployed: StubHost) -> None:
    changes = {"state": "stopped"}
    deployed.run("site.yml", "--check", changes=changes).passed().says("Let it finish, and stop it")
    let_finish(deployed, lambda: deployed.run("site.yml", changes=changes))
    assert engine(deployed).status == "exited"
    assert deployed.run("site.yml", changes=changes).passed().changed == 0
    deployed.run("site.yml", changes={"state": "absent"}).passed()
    assert not engines(deployed)
    assert deployed.run("site.yml", changes={"state": "absent"}).passed().changed == 0
