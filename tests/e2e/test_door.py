"""The door alone, in real HAProxy before stubs of engines (standalone.py): several engines, several clients, and none to serve."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ansible.module_utils.llm import door, door_host

from tests.e2e import standalone

pytestmark = pytest.mark.e2e

ONE, LEFT, RIGHT = "one", "left", "right"
PORTS = {ONE: 5001, LEFT: 5002, RIGHT: 5003}
AT_ONCE = 2  # requests that the engine of ONE works on
LARGE = 20  # requests of more than 64 KiB at once
KEYS = {service: [f"sk-of-{service}"] for service in PORTS}
CROWD, SINGLE = "sk-of-a-crowd", "sk-of-a-single-client"
CLIENTS = [
    door.Key(id=name, client=name, sha256=door.sha256(key), services=("*",), created=0)
    for name, key in (("crowd", CROWD), ("single", SINGLE))
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[standalone.Door]:
    """A gateway before one engine with little room, and before two of one model."""
    models = {ONE: "one", LEFT: "shared", RIGHT: "shared"}
    routes: list[dict[str, Any]] = [{"service": s, "port": PORTS[s], "model": m} for s, m in models.items()]
    routes[0]["at_once"] = AT_ONCE
    with standalone.standing(routes, KEYS, CLIENTS, _gateway_large=LARGE) as found:
        yield found


def shared(gateway: standalone.Door, prompt: str, **more: Any) -> tuple[int, str]:
    """Status of a request that names the model of two engines, and which of them has answered."""
    body = json.dumps({"model": "shared", "prompt": prompt, **more})
    status, text, _ = gateway.ask(standalone.HTTPS, SINGLE, body)
    return status, json.loads(text).get("name", text)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8443", "[::1]:8443"])
def test_one_address_serves_all_under_each_of_its_names(gateway: standalone.Door, host: str) -> None:
    assert gateway.ask(standalone.HTTPS, SINGLE, '{"model": "one"}', host=host)[0] == 200
    assert gateway.ask(standalone.HTTPS, SINGLE, '{"model": "one"}', host=f"x{host}")[0] in (400, 404)


# ---------------------------------------------------------------------------------------------------------------------
# Several engines of one model.


def test_what_begins_alike_goes_to_one_engine_and_all_of_them_work(gateway: standalone.Door) -> None:
    prompts = [f"{number} " * 600 for number in range(11)]  # longer than what is compared
    answers: dict[str, set[tuple[int, str]]] = {p: set() for p in prompts}
    for number, prompt in enumerate(prompts * 3):
        # While one is under way at its engine, that one has more than its share to do.
        while _column(gateway, f"all-{LEFT}", "BACKEND", "scur") != "0":
            pass
        answers[prompt].add(shared(gateway, f"{prompt} {number}"))
    assert all(len(found) == 1 for found in answers.values()), answers.values()
    assert {name for found in answers.values() for _, name in found} == {LEFT, RIGHT}
    assert {status for found in answers.values() for status, _ in found} == {200}


def test_an_engine_that_dies_costs_no_request_that_it_had_not_begun_to_answer(gateway: standalone.Door) -> None:
    container = gateway.engines[LEFT]
    try:
        with ThreadPoolExecutor(24) as pool:
            under_way = [pool.submit(shared, gateway, f"{n} ", after=1) for n in range(20)]
            while int(_column(gateway, f"all-{LEFT}", LEFT, "scur")) < 2:
                assert not all(u.done() for u in under_way), "none of them went to the engine that is to die"
            fatal = pool.submit(lambda: [shared(gateway, f"{n} ", dies=LEFT) for n in range(20)])
            found = [*(u.result() for u in under_way), *fatal.result()]
        assert standalone.docker("inspect", "--format", "{{.State.Running}}", container) == "false"
        assert {status for status, _ in found} == {200}, found
        assert [shared(gateway, f"{n} ") for n in range(20)] == [(200, RIGHT)] * 20
        assert gateway.ask(PORTS[LEFT], KEYS[LEFT][0], "", "/health")[0] in (200, 503)
    finally:
        standalone.docker("start", container)
        gateway.await_ready([PORTS[LEFT]])


def _column(gateway: standalone.Door, backend: str, server: str, name: str) -> str:
    """One number of HAProxy's statistics."""
    head, *lines = gateway.say("show stat").removeprefix("# ").splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines]
    return next(r[name] for r in rows if (r["pxname"], r["svname"]) == (backend, server))


# ---------------------------------------------------------------------------------------------------------------------
# Several clients.


def test_a_client_with_one_request_does_not_wait_behind_those_of_a_crowd(gateway: standalone.Door) -> None:
    """Counted, not timed: how many of the crowd's answers come between a single client's question and its answer."""
    answered, over = [], threading.Event()
    body = json.dumps({"after": 0.05})

    def crowd() -> None:
        while not over.is_set():
            answered.append(gateway.ask(PORTS[ONE], CROWD, body)[0])

    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(crowd) for _ in range(40)]
        try:
            end = time.monotonic() + 60
            while int(_column(gateway, ONE, "BACKEND", "qcur")) < 30:
                assert time.monotonic() < end, "no crowd waits"
            passed = []
            for _ in range(8):
                before = len(answered)
                assert gateway.ask(PORTS[ONE], SINGLE, body)[0] == 200
                passed.append(len(answered) - before)
        finally:
            over.set()
        for future in futures:
            future.result()
    assert set(answered) == {200}
    # Those that the engine had begun, those of the same time, and what a slow reader counts late; in turn it would be 40.
    assert sorted(passed)[len(passed) // 2] <= 4 * AT_ONCE, passed


def test_large_requests_are_counted_so_that_memory_lasts(gateway: standalone.Door) -> None:
    large, small = json.dumps({"after": 3, "prompt": "x" * 70_000}), json.dumps({"after": 0})
    with ThreadPoolExecutor(3 * LARGE) as pool:
        answers = [pool.submit(gateway.ask, PORTS[LEFT], CROWD, large) for _ in range(2 * LARGE)]
        others = [pool.submit(gateway.ask, PORTS[LEFT], CROWD, small) for _ in range(LARGE)]
        refused = [a.result() for a in answers if a.result()[0] != 200]
        assert {o.result()[0] for o in others} == {200}
    assert {(status, json.loads(text)["error"]["message"]) for status, text, _ in refused} == {
        (503, "too many large requests at once")
    }
    assert gateway.ask(PORTS[LEFT], CROWD, large)[0] == 200, "those that have ended count no more"


# ---------------------------------------------------------------------------------------------------------------------
# No engine.


def test_requests_wait_for_a_service_that_returns_and_not_for_one_that_was_stopped(gateway: standalone.Door) -> None:
    server, stopped = f"{ONE}/{ONE}", (503, "this service was stopped and is not serving")

    def ask() -> tuple[int, str]:
        status, text, _ = gateway.ask(PORTS[ONE], KEYS[ONE][0])
        return status, json.loads(text)["error"]["message"] if status != 200 else ""

    def returns(text: str) -> None:
        assert door_host.load_map(gateway.folder, "returns.map", text)

    def await_waiting() -> None:
        end = time.monotonic() + 60
        while _column(gateway, "door", "FRONTEND", "scur") != "1":
            assert time.monotonic() < end

    with ThreadPoolExecutor(1) as pool:
        try:
            gateway.say(f"set server {server} state maint")
            waiting = pool.submit(ask)
            await_waiting()
            assert not waiting.done()
            returns(f"{ONE} {door.STOPPED}\n")
            assert waiting.result() == ask() == stopped, "who waits is told as well"
            returns(f"{ONE} {int(time.time()) + 90}\n")
            waiting = pool.submit(ask)
            await_waiting()
            gateway.say(f"set server {server} state ready")
            assert waiting.result() == (200, "")
        finally:
            returns("")
            gateway.say(f"set server {server} state ready")
