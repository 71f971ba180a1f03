"""The gateway alone, in real HAProxy before stubs of engines (standalone.py): several engines, several clients, none to serve."""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
from ansible.module_utils.llm.gateway import haproxy, routes, usage
from ansible.module_utils.llm.gateway import keys as gateway_keys

from tests.e2e import standalone
from tests.e2e.wire import Http1, Sent

pytestmark = pytest.mark.e2e

ONE, LEFT, RIGHT = "one", "left", "right"
CLOCKS = 2  # milliseconds by which times of one request may disagree: HAProxy, its variables and Lua each round their own clock
PORTS = {ONE: 5001, LEFT: 5002, RIGHT: 5003}
ALL = f"all-{LEFT}"  # of the two engines of one model
AT_ONCE = 2  # requests that the engine of ONE works on
WAIT = 10  # seconds for a service that is to return
LARGE = 20  # requests of more than 64 KiB at once
KEYS = {service: [f"sk-of-{service}"] for service in PORTS}
CROWD, SINGLE, METERED = "sk-of-a-crowd", "sk-of-a-single-client", "sk-of-a-metered-client"
CLIENTS = [
    gateway_keys.ClientKey(id=name, client=name, sha256=gateway_keys.sha256(key), services=("*",), created=0)
    for name, key in (("crowd", CROWD), ("single", SINGLE))
]
EXPIRED, LIMITED = "sk-of-before", [f"sk-of-{n}-a-minute" for n in range(3)]
CLIENTS.append(
    gateway_keys.ClientKey(
        id="k-old", client="old", sha256=gateway_keys.sha256(EXPIRED), services=("*",), created=0, expires=1
    )
)
NARROW = "sk-of-a-narrow-client"
CLIENTS.append(
    gateway_keys.ClientKey(
        id="k-narrow",
        client="narrow",
        sha256=gateway_keys.sha256(NARROW),
        services=("*",),
        created=0,
        at_once=1,
        queue=1,
    )
)
CLIENTS += [
    gateway_keys.ClientKey(
        id=f"k-{n}", client=f"limited-{n}", sha256=gateway_keys.sha256(key), services=("*",), created=0, per_minute=1
    )
    for n, key in enumerate(LIMITED)
]
CLIENTS.append(
    gateway_keys.ClientKey(
        id="k-metered", client="metered", sha256=gateway_keys.sha256(METERED), services=(LEFT,), created=0, per_minute=3
    )
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[standalone.Gateway]:
    """A gateway before one engine with little room, and before two of one model."""
    models = {ONE: "one", LEFT: "shared", RIGHT: "shared"}
    routes: list[dict[str, Any]] = [{"service": s, "port": PORTS[s], "model": m} for s, m in models.items()]
    routes[0]["at_once"] = AT_ONCE
    with standalone.standing(routes, KEYS, CLIENTS, stalled=2, large=LARGE, wait=WAIT) as found:
        yield found


def shared(gateway: standalone.Gateway, prompt: str, **more: Any) -> tuple[int, str]:
    """Status of a request that names the model of two engines, and which of them has answered."""
    body = json.dumps({"model": "shared", "prompt": prompt, **more})
    status, text, _ = gateway.ask(standalone.HTTPS, SINGLE, body)
    return status, json.loads(text).get("name", text)


def go_on(gateway: standalone.Gateway, *engines: str) -> None:
    """Let engines send at once what they were asked to send later."""
    for engine in engines:
        standalone.tell(gateway.engines[engine], now=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8443", "[::1]:8443"])
def test_one_address_serves_all_under_each_of_its_names(gateway: standalone.Gateway, host: str) -> None:
    assert gateway.ask(standalone.HTTPS, SINGLE, '{"model": "one"}', host=host)[0] == 200
    assert gateway.ask(standalone.HTTPS, SINGLE, '{"model": "one"}', host=f"x{host}")[0] in (400, 404)


# ---------------------------------------------------------------------------------------------------------------------
# Several engines of one model.


def test_what_begins_alike_goes_to_one_engine_also_while_that_one_answers(gateway: standalone.Gateway) -> None:
    prompts = [f"{number} " * 600 for number in range(6)]  # longer than what is compared
    with ThreadPoolExecutor(len(prompts)) as pool:
        first = [pool.submit(shared, gateway, f"{prompt} first", after=60) for prompt in prompts]
        await_column(gateway, ALL, "BACKEND", "scur", lambda n: n == len(prompts))
        later = [{shared(gateway, f"{prompt} {n}") for n in range(3)} for prompt in prompts]
        assert not any(f.done() for f in first), "they were under way all the time"
        go_on(gateway, LEFT, RIGHT)
        assert later == [{f.result()} for f in first]
    assert set.union(*later) == {(200, LEFT), (200, RIGHT)}


def test_a_stream_does_not_send_what_begins_like_it_elsewhere(gateway: standalone.Gateway) -> None:
    prompt = "stream " * 600
    with ThreadPoolExecutor(1) as pool:
        body = json.dumps({"model": "shared", "prompt": prompt, "pieces": 600, "every": 0.1})
        stream = pool.submit(gateway.ask, standalone.HTTPS, SINGLE, body)
        await_column(gateway, ALL, "BACKEND", "scur", lambda n: n == 1)
        (home,) = [name for name in (LEFT, RIGHT) if _column(gateway, ALL, name, "scur") == "1"]
        assert {shared(gateway, f"{prompt} {n}") for n in range(4)} == {(200, home)}
        assert not stream.done()
        go_on(gateway, home)
        assert stream.result()[1].count("data: ") == 600


def test_a_crowd_that_begins_alike_has_all_engines(gateway: standalone.Gateway) -> None:
    crowd = 40
    with ThreadPoolExecutor(crowd) as pool:
        found = list(pool.map(lambda n: shared(gateway, f"{'crowd ' * 600} {n}", after=2), range(crowd)))
    counts = collections.Counter(found)
    # A quarter more than half of them, and what comes of rounding.
    assert set(counts) == {(200, LEFT), (200, RIGHT)} and max(counts.values()) <= 0.625 * crowd + 2, counts


def test_an_engine_that_makes_no_tokens_gets_no_new_requests_until_it_makes_some(gateway: standalone.Gateway) -> None:
    """It says that it is healthy all the time."""
    prompts = (f"{n} hangs " * 600 for n in range(100))
    with ThreadPoolExecutor(1) as pool:
        try:
            hanging = pool.submit(
                shared, gateway, next(p for p in prompts if shared(gateway, p)[1] == LEFT), hangs=LEFT
            )
            await_column(gateway, ALL, LEFT, "weight", lambda n: n == 0)
            assert {shared(gateway, f"{n} ") for n in range(8)} == {(200, RIGHT)}
            assert _column(gateway, ALL, LEFT, "check_status").endswith("L7OK") and not hanging.done()
        finally:
            standalone.tell(gateway.engines[LEFT], goes_on=True)
        assert hanging.result() == (200, LEFT), "it had begun with that"
        await_column(gateway, ALL, LEFT, "weight", lambda n: n > 0)
        assert {shared(gateway, f"{n} ") for n in range(8)} == {(200, LEFT), (200, RIGHT)}


def test_an_engine_that_dies_costs_no_request_that_it_had_not_begun_to_answer(gateway: standalone.Gateway) -> None:
    container = gateway.engines[LEFT]
    try:
        with ThreadPoolExecutor(24) as pool:
            under_way = [pool.submit(shared, gateway, f"{n} ", after=1) for n in range(20)]
            while int(_column(gateway, ALL, LEFT, "scur")) < 2:
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


def await_column(
    gateway: standalone.Gateway, backend: str, server: str, name: str, what: Callable[[int], bool]
) -> None:
    """Wait until a number of HAProxy's statistics is as it should be."""
    end = time.monotonic() + 60
    while not what(int(_column(gateway, backend, server, name))):
        assert time.monotonic() < end, (backend, server, name)
        time.sleep(0.02)


def _column(gateway: standalone.Gateway, backend: str, server: str, name: str) -> str:
    """One number of HAProxy's statistics."""
    head, *lines = gateway.say("show stat").removeprefix("# ").splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines]
    return next(r[name] for r in rows if (r["pxname"], r["svname"]) == (backend, server))


# ---------------------------------------------------------------------------------------------------------------------
# Several clients.


def test_a_client_with_one_request_does_not_wait_behind_those_of_a_crowd(gateway: standalone.Gateway) -> None:
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


def test_a_client_has_so_many_requests_at_once_and_so_many_waiting(gateway: standalone.Gateway) -> None:
    def ask(key: str, after: float) -> tuple[int, str, Mapping[str, str]]:
        return gateway.ask(PORTS[LEFT], key, json.dumps({"after": after}))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, NARROW, 60)
        await_column(gateway, LEFT, "BACKEND", "scur", lambda n: n == 1)
        second = pool.submit(ask, NARROW, 0)
        end = time.monotonic() + 60
        while "conn_cur=2" not in gateway.say("show table clients data.conn_cur gt 1"):
            assert time.monotonic() < end
        status, text, headers = ask(NARROW, 0)
        assert (status, json.loads(text)["error"]["code"]) == (429, "too_many_at_once"), text
        assert "retry-after" in {name.lower() for name in headers}
        assert ask(SINGLE, 0)[0] == 200, "others have their own"
        # The latest is refused, and not who has waited.
        assert not first.done() and not second.done()
        go_on(gateway, LEFT)
        assert (first.result()[0], second.result()[0]) == (200, 200)
    assert ask(NARROW, 0)[0] == 200


def test_large_requests_are_counted_so_that_memory_lasts(gateway: standalone.Gateway) -> None:
    large, small = json.dumps({"after": 60, "prompt": "x" * 70_000}), json.dumps({"after": 0})
    with ThreadPoolExecutor(3 * LARGE) as pool:
        answers = [pool.submit(gateway.ask, PORTS[LEFT], CROWD, large) for _ in range(2 * LARGE)]
        others = [pool.submit(gateway.ask, PORTS[LEFT], CROWD, small) for _ in range(LARGE)]
        assert {o.result()[0] for o in others} == {200}
        wait(answers, return_when=FIRST_COMPLETED)  # none of the others, whose time has not come
        while wait(answers, 0.1).not_done:  # those that the gateway let in late, too
            go_on(gateway, LEFT)
        refused = [a.result() for a in answers if a.result()[0] != 200]
    assert {(status, json.loads(text)["error"]["message"]) for status, text, _ in refused} == {
        (503, "too many large requests at once")
    }
    again = large.replace("60", "0")
    assert gateway.ask(PORTS[LEFT], CROWD, again)[0] == 200, "those that have ended count no more"


# ---------------------------------------------------------------------------------------------------------------------
# No engine.


def test_requests_wait_for_a_service_that_returns_and_not_for_one_that_was_stopped(gateway: standalone.Gateway) -> None:
    server, stopped = f"{ONE}/{ONE}", (503, "this service was stopped and is not serving")

    def ask() -> tuple[int, str]:
        status, text, _ = gateway.ask(PORTS[ONE], KEYS[ONE][0])
        return status, json.loads(text)["error"]["message"] if status != 200 else ""

    def returns(text: str) -> None:
        assert haproxy.load_map(gateway.folder, "returns.map", text)

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
            returns(f"{ONE} {routes.STOPPED}\n")
            assert waiting.result() == ask() == stopped, "who waits is told as well"
            returns(f"{ONE} {int(time.time()) + 90}\n")
            waiting = pool.submit(ask)
            await_waiting()
            gateway.say(f"set server {server} state ready")
            assert waiting.result() == (200, "")
        finally:
            returns("")
            gateway.say(f"set server {server} state ready")


# ---------------------------------------------------------------------------------------------------------------------
# Refusals, in the dialect of the API that was called.


def test_every_refusal_is_in_the_dialect_of_the_api_and_has_the_request_s_id(gateway: standalone.Gateway) -> None:
    here, large = PORTS[LEFT], str(32 * 2**20 + 1)
    wire = Http1((gateway.address, here))

    def refusal(path: str, status: int, code: str, *, retry: bool = False, port: int = here, **asked: Any) -> None:
        if "length" in asked:
            sent = Sent("POST", path, framing=[("Content-Length", asked["length"])], body=b"x" * 65536, alone=True)
            got, body = wire.ask(sent, [("Authorization", f"Bearer {SINGLE}")])
            text, headers = body.decode(), {}
        else:
            got, text, found = gateway.ask(port, asked.get("key", SINGLE), asked.get("body", "{}"), path)
            headers = {name.lower(): value for name, value in found.items()}
        said = json.loads(text)
        assert (got, said["error"]["code"]) == (status, code), text
        assert said.get("type") == ("error" if path.startswith("/v1/messages") else None), path
        assert said["error"]["message"] and said["error"]["type"].endswith("_error" if status != 413 else "_large")
        assert said["request_id"] == headers.get("x-request-id", said["request_id"]) != ""
        assert ("retry-after" in headers) == retry, headers

    paths = ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"]
    replaced, stopped = f"{RIGHT} {int(time.time()) + 900}\n", f"{LEFT} {routes.STOPPED}\n"
    with ThreadPoolExecutor(len(paths)) as pool:
        try:
            for service in (LEFT, RIGHT):
                gateway.say(f"set server {service}/{service} state maint")
            assert haproxy.load_map(gateway.folder, "returns.map", replaced + stopped)
            late = [pool.submit(refusal, p, 503, "service_unavailable", retry=True, port=PORTS[RIGHT]) for p in paths]
            for path in paths:
                refusal(path, 503, "service_unavailable")  # who stopped it does not say until when
                refusal(path, 401, "invalid_api_key", key="sk-wrong")
                refusal(path, 401, "expired_api_key", key=EXPIRED)
                refusal(path, 403, "out_of_scope", key=METERED, port=PORTS[RIGHT])
                refusal(path, 404, "model_not_found", port=standalone.HTTPS, body='{"model": "nobody-s"}')
                refusal(path, 413, "request_too_large", length=large)
            for answer in late:
                answer.result()
        finally:
            assert haproxy.load_map(gateway.folder, "returns.map", "")
            for service in (LEFT, RIGHT):
                gateway.say(f"set server {service}/{service} state ready")
            gateway.await_ready([PORTS[LEFT], PORTS[RIGHT]])
    for path, key in zip(paths, LIMITED, strict=True):
        assert gateway.ask(here, key, "{}", path)[0] == 200
        refusal(path, 429, "rate_limit_exceeded", key=key, retry=True)
    refusal("/metrics", 404, "not_found")


# ---------------------------------------------------------------------------------------------------------------------
# What the access log says, and what playbooks/usage.yml makes of it.


def test_what_each_client_asked_is_in_the_log_and_no_key_is(gateway: standalone.Gateway) -> None:
    stream, secret = {"pieces": 4, "every": 0.05}, "a prompt that is nobody's business"
    asked = [
        (PORTS[LEFT], json.dumps({"prompt": secret}), "/v1/completions", 200),
        (PORTS[LEFT], json.dumps(stream), "/v1/chat/completions", 200),
        (PORTS[LEFT], "", "/v1/models?api_key=sk-in-a-query", 200),
        (PORTS[RIGHT], "{}", "/v1/completions", 403),
        (PORTS[LEFT], "{}", "/v1/completions", 429),
    ]
    before = len(standalone.docker("logs", gateway.container))  # other tests were here
    for port, body, path, status in asked:
        got, text, headers = gateway.ask(port, METERED, body, path)
        assert got == status, text
        assert (status == 429) == ("retry-after" in {name.lower() for name in headers})
    assert gateway.ask(PORTS[LEFT], "sk-wrong-but-logged", "{}")[0] == 401
    assert gateway.ask(PORTS[LEFT], METERED, "{}", "/metrics")[0] == 404
    end, lines = time.monotonic() + 60, list[dict[str, Any]]()
    while len(lines) < len(asked):  # a request is logged when it has ended, which may be after its answer
        assert time.monotonic() < end, lines
        log = standalone.docker("logs", gateway.container)[before:]
        lines = [e for e in usage.entries(log.splitlines()) if e["client"] == "metered"]
    assert sorted((e["status"], e["method"], e["path"], e["key"]) for e in lines) == sorted(
        (status, "POST" if body else "GET", path.partition("?")[0], "k-metered") for _, body, path, status in asked
    )
    assert len({e["id"] for e in lines}) == len(lines) and all(
        0 <= e["wait_ms"] + e["queue_ms"] <= e["first_byte_ms"] + CLOCKS <= e["total_ms"] + 2 * CLOCKS
        for e in lines
        if e["status"] == 200
    )
    found = usage.summary(lines)["metered"]
    counts = [found[k] for k in ("requests", "answered", "refused", "limited", "failed")]
    assert counts == [5, 3, 1, 1, 0] and found["services"] == {LEFT: 4, RIGHT: 1}
    assert found["bytes_in"] > len(secret) and found["bytes_out"] > 4 * len("data: ")
    assert found["total_ms"]["p95"] >= 150, "the stream's three pauses"
    assert 0 <= found["first_byte_ms"]["p50"] <= found["total_ms"]["p95"]
    keys = (CROWD, SINGLE, METERED, "sk-wrong-but-logged", "sk-in-a-query", secret, *(k for (k,) in KEYS.values()))
    assert [k for k in (*keys, *map(gateway_keys.sha256, keys)) if k in log] == []
    nobody = usage.summary(usage.entries(log.splitlines()))[usage.NOBODY]
    assert nobody["refused"] >= 2 and not nobody["failed"]


def test_the_log_says_how_long_a_request_waited_for_others_of_its_client(gateway: standalone.Gateway) -> None:
    before = len(standalone.docker("logs", gateway.container))
    body = json.dumps({"prompt": "slow", "after": 1})
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: gateway.ask(PORTS[ONE], NARROW, body), range(2)))
    assert [status for status, *_ in answers] == [200, 200]
    ids = {value for _, _, headers in answers for name, value in headers.items() if name.lower() == "x-request-id"}
    end, lines = time.monotonic() + 60, list[dict[str, Any]]()
    while len(lines) < 2:
        assert time.monotonic() < end, lines
        log = standalone.docker("logs", gateway.container)[before:]
        lines = [e for e in usage.entries(log.splitlines()) if e["id"] in ids]
    first, second = sorted(lines, key=lambda e: int(e["wait_ms"]))
    assert second["wait_ms"] > first["wait_ms"] and second["queue_ms"] == 0
    assert (
        second["wait_ms"] <= second["first_byte_ms"] + CLOCKS and second["first_byte_ms"] <= second["total_ms"] + CLOCKS
    )
