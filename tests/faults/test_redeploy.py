"""Deployments under load, as clients see them. Docker, gateway and playbooks are real; the engine is a stub (tests/stub/engine.py).

tests/faults/test_deploys.py does the same to the demo's real engine, with as many requests as that can answer.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import Run
from tests.faults.stub.host import SERVICE, StubHost

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LEAST = 10_000  # requests


@pytest.fixture(scope="module")
def deployed(host: StubHost) -> StubHost:
    """The host with its service."""
    host.reset()
    host.run("site.yml").passed()
    return host


def release(host: StubHost) -> str:
    """Name of the current release."""
    return (host.root / "services" / SERVICE / "current").readlink().name


def engine(host: StubHost, of: str) -> Any:
    """Container of a release."""
    return host.client.containers.get(f"llm-{SERVICE}-{of[:8]}")


@contextmanager
def load(host: StubHost, least: int, a_second: int = 200) -> Iterator[dict[str, Any]]:
    """Clients that ask all the time, eight at once; what they got is there once the block is left."""
    clients = host.load(8, a_second, least)
    assert clients.stdout and clients.stdin
    found: dict[str, Any] = {}
    assert clients.stdout.readline().strip() == "100"
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(clients.stdout or ()))
    reader.start()
    try:
        yield found
    finally:
        clients.stdin.close()
        reader.join()
        found.update(json.loads(read[-1]))


def test_ten_thousand_requests_and_an_open_stream_notice_nothing_of_a_deployment(deployed: StubHost) -> None:
    before, runs = release(deployed), list[Run]()
    old = engine(deployed, before)
    with load(deployed, LEAST) as got:
        stream = deployed.ask(tokens=1_000_000)
        assert stream.stdout and json.loads(stream.stdout.readline())["status"] == 200
        pieces: list[str] = []
        reader = threading.Thread(target=lambda: pieces.extend(stream.stdout or ()))
        reader.start()
        run = threading.Thread(
            target=lambda: runs.append(deployed.run("site.yml", changes={"args": {"max-model-len": 960}}))
        )
        run.start()
        while release(deployed) == before:
            assert run.is_alive(), runs[0].passed()
            time.sleep(0.1)
        old.reload()
        assert (old.status, stream.poll()) == ("running", None), "the stream goes on beside the new release"
        old.kill("SIGUSR1")
        run.join()
        reader.join()
    runs[0].passed()
    assert "Take out of service what is in the way" not in runs[0].text
    last = json.loads(pieces[-1])
    assert (last["status"], last["finish"]) == (200, "length"), "it came to its end on the old release"
    assert got["lost"] == [] and list(got["statuses"]) == ["200"] and got["statuses"]["200"] >= LEAST, got
    assert [c.name for c in deployed.client.containers.list(filters={"name": f"^llm-{SERVICE}-"})] == [
        f"llm-{SERVICE}-{release(deployed)[:8]}"
    ]
    sys.stdout.write(f"{got}\n")


def test_where_both_do_not_fit_requests_wait_as_declared_and_then_hear_when_to_come_again(deployed: StubHost) -> None:
    before = release(deployed)
    with load(deployed, 0, a_second=20) as got:
        run = deployed.run("site.yml", changes={"limits": {"memory": f"{_memory_gib()}g"}}).passed()
        assert deployed.status() == 200
    assert "Take out of service what is in the way" in run.text and release(deployed) != before
    assert got["lost"] == [] and set(got["statuses"]) == {"200", "503"}, got
    assert got["told"] == got["statuses"]["503"], "each says when to come again, and when the service is expected back"
    sys.stdout.write(f"{got}\n")


def test_the_door_serves_on_an_ipv6_address(deployed: StubHost) -> None:
    """The run itself asks there before it is content; so does another client."""
    deployed.run("site.yml", "-e", "llm_bind_address=::1").passed()
    assert deployed.status(address="[::1]") == 200
    assert deployed.status() == 0, "nothing is published elsewhere"
    deployed.run("site.yml").passed()
    assert deployed.status() == 200


def _memory_gib() -> int:
    text = Path("/proc/meminfo").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("MemTotal"))) // 2**20
