"""A host that is no longer as it was left, and services that are to go: shown, repaired, stopped without cutting anybody off.

Docker, gateway, playbooks and files are real. So is the engine in every test of a fault; in the others it is a stub
(tests/stub/engine.py), and tests/e2e and test_deploys.py do the same to the demo's real one.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible.module_utils.llm.base import names

from tests.e2e.demo import Run
from tests.faults.stub.host import DECLARED, KEY, PORT, SERVICE, RealHost, StubHost, differences

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def deployed(host: StubHost) -> StubHost:
    """The host with its service."""
    host.reset()
    host.run("site.yml").passed()
    return host


@pytest.fixture
def served(real_host: RealHost) -> RealHost:
    """The host whose engine is the real one, with its service."""
    if not engines(real_host):
        real_host.reset()
    real_host.run("site.yml").passed()
    return real_host


def engines(host: StubHost) -> list[Any]:
    """The service's containers. By name: an image that is made of one has its labels, and so has the supervisor that uses it."""
    found: list[Any] = host.client.containers.list(all=True, filters={"name": f"^llm-{host.service}-"})
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
    client = host.ask(tokens=host.long)
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
        host.end_stream(container)
        thread.join()
    assert last[0]["finish"] == "length" and last[0]["pieces"] > 1, last
    runs[0].passed()


@pytest.mark.slow
@pytest.mark.fault(46, "a stopped service")
def test_a_stopped_service_is_started_again(served: RealHost) -> None:
    before = served.state()
    engine(served).stop()
    shown_and_repaired(served, "container: exited -> running")
    assert differences(before, served.state()) == {}


@pytest.mark.slow
@pytest.mark.fault(46, "a tag that means another image")
def test_a_tag_that_means_another_image_is_a_new_release(served: RealHost) -> None:
    before = engine(served)
    ours, reference = before.attrs["Image"], before.attrs["Config"]["Image"]
    try:
        other, _ = served.client.images.build(
            fileobj=io.BytesIO(f"FROM {ours}\nLABEL other=yes\n".encode()), tag=reference
        )
        shown_and_repaired(served, f"image id: {ours} -> {other.id}")
        assert engine(served).attrs["Image"] == other.id and served.status() == 200
    finally:
        served.client.images.get(ours).tag(*reference.split(":"))


@pytest.mark.slow
@pytest.mark.fault(47, "its container is listed, kept, and with llm_prune let finish and removed")
def test_an_orphan_goes_only_when_asked(served: RealHost) -> None:
    gateway = served.client.containers.get(names.GATEWAY).id
    clients = served.root / "gateway/clients.json"
    served.run("playbooks/keys.yml", "-e", "llm_key_do=create", "-e", "llm_key_client=x", "-e", "llm_key_services=*")
    asked = [served.status() for _ in range(3)]
    nothing = ("-e", json.dumps({"llm_host_services": []}))
    told = f"this host serves: `{served.service}`, the gateway, the supervisor would be taken from it"
    before = served.state()
    for more in (("--check", "--diff"), ()):
        assert served.run("site.yml", *more, *nothing).refused().says(told).changed == 0
    served.run("playbooks/status.yml", *nothing).passed().says(told)
    asked += [served.status()]
    assert differences(before, served.state()) == {}

    run = served.run("site.yml", "--check", "--diff", *nothing, "-e", "llm_prune=true").passed()
    run.says(f"--- before: container {names.GATEWAY}", f"-running, ports 80, 443, {PORT}\n")
    assert engine(served).status == "running"
    let_finish(served, lambda: served.run("site.yml", *nothing, "-e", "llm_prune=true"))
    assert not served.client.containers.list(all=True, filters={"name": f"^{names.GATEWAY}$"})
    assert not engines(served)
    assert served.status() == 0, "a gateway that leads nowhere is none"
    assert served.run("site.yml", *nothing).passed().changed == 0
    served.run("site.yml").passed()
    asked += [served.status()]
    assert asked == [200] * 5 and clients.exists()
    assert served.client.containers.get(names.GATEWAY).id != gateway

    # What the gateway of before was asked counts as well.
    usage = served.run("playbooks/usage.yml").passed()
    used = json.loads((usage.report / "usage.json").read_text())["clients"][served.service]
    assert used["answered"] >= len(asked) and used["total_ms"]["p95"] > 0
    assert used["services"].keys() == {served.service}
    assert usage.changed == 0 and served.service in usage.stdout and KEY not in usage.stdout + json.dumps(used)


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
        deployed.run("site.yml").passed().says(
            "(running) is not wanted by the declaration; -e llm_prune=true removes it"
        )
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
