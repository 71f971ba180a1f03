"""What the gateway lets through: every route of the real engine, with every kind of key, in every disguise; the list and no more.

What arrived at the engine is read from the engine's own access log: a request carries the name of its disguise in its query.
"""

from __future__ import annotations

import collections
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llm_client_key
import pytest
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys

from tests.e2e.demo import ROOT, SERVICE, Machine, request
from tests.e2e.wire import NONE, Headers, Http1, Http2, Sent

pytestmark = pytest.mark.e2e

Route = tuple[str, str]

LISTED: frozenset[Route] = frozenset(
    {
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
    }
)
HEALTH: Route = ("GET", "/health")  # answered by the gateway itself, for anybody
# Routes that this engine, started this way, does not name in its openapi.json: of other modes, older and newer engines, and
# of those that no engine names.
UNNAMED: tuple[Route, ...] = (
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/is_sleeping"),
    ("GET", "/is_paused"),
    ("GET", "/server_info"),
    ("GET", "/get_world_size"),
    ("GET", "/get_tokenizer_info"),
    ("GET", "/v1/realtime"),
    ("GET", "/v1/models/x"),
    ("GET", "/v1"),
    ("GET", "/stats"),
    ("GET", "/haproxy?stats"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/score"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("POST", "/score"),
    ("POST", "/rerank"),
    ("POST", "/pooling"),
    ("POST", "/classify"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/cohere/v2/embed"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/abort_requests"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/reset_mm_cache"),
    ("POST", "/start_profile"),
    ("POST", "/stop_profile"),
    ("POST", "/update_weights"),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "post", "get")
SMUGGLED = b"0\r\n\r\nGET /metrics?t=smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
CHUNKED = ("Transfer-Encoding", "chunked")
JSON = [("Content-Type", "application/json")]


def encoded(path: str) -> str:
    """Its slashes but the first encoded; the first one doubled so where there is no other."""
    return "/" + path[1:].replace("/", "%2f") if "/" in path[1:] else f"/%2f{path[1:]}"


# Disguises of a path, for HTTP/1 and HTTP/2 alike. None of them is the path that is listed.
PATHS: Mapping[str, Callable[[str], str]] = {
    "double-slash": lambda p: f"/{p}",
    "upper-case": lambda p: p.upper() if p.upper() != p else "/V1",
    "encoded-dots": lambda p: f"/v1/%2e%2e{p}",
    "dots": lambda p: f"/v1/models/../..{p}",
    "dot": lambda p: f"/.{p}",
    "encoded-slash": encoded,
    "encoded-letter": lambda p: f"/%{ord((p + 'v')[1]):02x}{p[2:]}",
    "encoded-twice": lambda p: f"/v1/%252e%252e{p}",
    "trailing-slash": lambda p: f"{p}/",
    "parameter": lambda p: f"{p};/v1/models",
    "backslash": lambda p: f"/v1\\..{p}".replace("/", "\\", 2).replace("\\", "/", 1),
    "null": lambda p: f"{p}%00",
    "blank": lambda p: f"{p}%20",
    "line-break": lambda p: f"{p}%0d%0aX:%20y",
    "list-in-front": lambda p: f"/v1/models{p}",
    "own-prefix": lambda p: f"/{SERVICE}/{SERVICE}{p}",
}


def marked(target: str, trick: str) -> str:
    """A target with the name of its disguise in its query."""
    return f"{target}{'&' if '?' in target else '?'}t={trick}"


def sent(method: str, path: str, trick: str, **more: Any) -> Sent:
    return Sent(method, marked(path, trick), **{"headers": JSON, "body": b"{}" if method == "POST" else b"", **more})


def smuggling(method: str, path: str, trick: str, *framing: tuple[str, str], **more: Any) -> Sent:
    return sent(method, path, trick, body=SMUGGLED, framing=framing, alone=True, **more)


LENGTH = ("Content-Length", str(len(SMUGGLED)))
# Disguises that HTTP/1 alone has.
HTTP1: Mapping[str, Callable[[str, str, str], list[Sent]]] = {
    "absolute-uri": lambda m, p, t: [sent(m, f"http://127.0.0.1:5010{p}", t)],
    "absolute-uri-of-the-engine": lambda m, p, t: [sent(m, f"http://llm-engine:8000{p}", t)],
    "absolute-uri-user": lambda m, p, t: [sent(m, f"http://127.0.0.1:5010@engine{p}", t)],
    "method-swap": lambda m, p, t: [sent(n, p, t) for n in METHODS if n != m],
    "method-override": lambda m, p, t: [
        sent("GET", "/", t, headers=[("X-Original-URL", p), ("X-Rewrite-URL", p), ("X-HTTP-Method-Override", m)])
    ],
    "two-hosts": lambda m, p, t: [sent(m, p, t, hosts=("127.0.0.1:5010", "engine:8000"))],
    "no-host": lambda m, p, t: [sent(m, p, t, hosts=())],
    "http-0.9": lambda m, p, t: [sent(m, p, t, version="", alone=True)],
    "blank-in-target": lambda m, p, t: [Sent(m, f"/v1/models {p}?t={t}", alone=True)],
    "length-and-chunked": lambda m, p, t: [smuggling(m, p, t, CHUNKED, LENGTH), smuggling(m, p, t, LENGTH, CHUNKED)],
    "length-and-chunked-1.0": lambda m, p, t: [smuggling(m, p, t, CHUNKED, LENGTH, version="HTTP/1.0")],
    "chunked-disguised": lambda m, p, t: [
        smuggling(m, p, t, LENGTH, encoding)
        for encoding in (
            ("Transfer-Encoding ", "chunked"),
            ("Transfer-Encoding", "xchunked"),
            ("Transfer-Encoding", "chunked, identity"),
            ("Transfer-Encoding", "\x0bchunked"),
            ("Transfer-Encoding", '"chunked"'),
            ("X: y\nTransfer-Encoding", "chunked"),
        )
    ],
    "two-lengths": lambda m, p, t: [smuggling(m, p, t, ("Content-Length", "0"), LENGTH)],
    "length-with-sign": lambda m, p, t: [smuggling(m, p, t, ("Content-Length", "+5"))],
    # An upgrade that the engine took would be a tunnel past the gateway.
    "upgrade": lambda m, p, t: [
        sent(m, p, t, headers=[*JSON, ("Connection", f"Upgrade{more}"), ("Upgrade", protocol), *fields])
        for protocol, more, fields in (
            ("h2c", ", HTTP2-Settings", [("HTTP2-Settings", "AAMAAABkAAQAAP__")]),
            ("websocket", "", [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]),
        )
    ],
}
# What comes down to the very request that is listed: a good key may use these.
SAME = ("as-it-is", "absolute-uri", "no-host", "upgrade")
# These may come down to another one that is listed: by its method, or as the first of two, where the second is judged like any.
OTHER = ("method-swap", "length-and-chunked", "length-and-chunked-1.0", "chunked-disguised")


class Keys:
    """A key in every state, by the functions of the verb that users call; none is left afterwards."""

    def __init__(self) -> None:
        self.clients = gateway_host.clients(ROOT / "gateway")
        try:
            revoked = self.act("create", "matrix-revoked")
            self.act("revoke", "matrix-revoked")
            expired = self.act("create", "matrix-expired")
            self.act("rotate", "matrix-expired", overlap="0h")
            engine_key = gateway_host.engine_keys(ROOT / "gateway")[0]
            self.good = self.act("create", "matrix-good")
            self.bad = {
                "none": "",
                "wrong": "sk-wrong",
                "revoked": revoked,
                "expired": expired,
                "out of scope": self.act("create", "matrix-elsewhere", services=["micro"]),
            }
            self.false = [
                " ",
                self.good[:-1],
                f"{self.good}x",
                gateway_keys.sha256(self.good),
                engine_key,
                f"{self.good},x",
            ]
        except BaseException:
            self.forget()
            raise

    @staticmethod
    def act(do: str, client: str, **given: Any) -> str:
        """The verb's own work; the new key where there is one."""
        options = dict.fromkeys(("services", "per_minute", "at_once", "queue", "expires", "overlap"))
        options |= {"root": str(ROOT), "do": do, "client": client, "known": [SERVICE, "micro"], "services": [SERVICE]}
        result = llm_client_key.act({**options, **given}, check_mode=False)
        assert result["applied"], "the running gateway did not follow"
        return str(result.get("key", ""))

    def forget(self) -> None:
        """The clients of before, on disk and in the running gateway."""
        gateway_host.keep_clients(ROOT / "gateway", self.clients)
        gateway_host.refresh_keys(ROOT)


@pytest.fixture(scope="module")
def keys(watched: Watched) -> Iterator[Keys]:  # noqa: ARG001 - the gateway has to be open
    found = Keys()
    yield found
    found.forget()


class Watched:
    """The engine behind the gateway, and what of the gateway's requests it has seen."""

    def __init__(self, machine: Machine) -> None:
        self.engine = machine.engine()
        networks = machine.gateway().attrs["NetworkSettings"]["Networks"]
        address = re.escape(networks["llm"]["IPAddress"])
        self.line = re.compile(rf'{address}:\d+ - "(\S+) (.*) HTTP/(\S+)" \d+')
        engine = self.engine.attrs["NetworkSettings"]["Networks"]["llm"]["IPAddress"]
        self.url = f"http://{engine}:8000"
        self.gateway, self.key = Http1(("127.0.0.1", 5010)), machine.key

    def routes(self) -> list[Route]:
        """Every route of the engine, by its own word, and those that it keeps silent about."""
        paths = json.loads(request(f"{self.url}/openapi.json")[1])["paths"]
        named = [(m.upper(), re.sub(r"\{.*?\}", "x", p)) for p, methods in paths.items() for m in methods]
        return list(dict.fromkeys([*named, *UNNAMED]))

    def mark(self) -> str:
        """Send what can be found again, and wait until the engine's log has it: so it has all that came before."""
        name = f"mark-{uuid.uuid4()}"
        self.gateway.close()  # it may have been idle for too long
        status, _ = self.gateway.ask(Sent("GET", f"/v1/models?t={name}"), bearer(self.key))
        assert status == 200
        end = time.monotonic() + 120
        while name not in self.engine.logs(tail=200).decode():
            assert time.monotonic() < end, "the engine does not log a request that it has answered"
            time.sleep(0.05)
        return name

    def since(self, start: str) -> list[tuple[str, str, str]]:
        """(disguise, method, path) of what arrived from the gateway since a mark; its own checks of health are left out."""
        stop = self.mark()
        lines = self.engine.logs().decode("utf-8", "replace").rpartition(start)[2].partition(stop)[0].splitlines()[1:]
        found = [self.line.search(line) for line in lines]
        requests = [(f[1], f[2]) for f in found if f and (f[1], f[2], f[3]) != ("GET", "/health", "1.0")]
        parts = [(m, *target.partition("?")[::2]) for m, target in requests if "t=mark-" not in target]
        assert not [line for line in lines if "upgrade request" in line], "the engine was asked to change the protocol"
        return [(query.rpartition("t=")[2], method, path) for method, path, query in parts]


@pytest.fixture(scope="module")
def watched(machine: Machine) -> Watched:
    machine.await_door()
    return Watched(machine)


def bearer(key: str) -> Headers:
    return [("Authorization", f"Bearer {key}")] if key else []


def ways(key: str) -> list[Headers]:
    """How a key is sent."""
    return [bearer(key), [("x-api-key", key)]]


def in_http1(route: Route) -> Iterator[tuple[str, Sent]]:
    """A route as it is, and in every disguise."""
    method, path = route
    yield "as-it-is", sent(method, path, "as-it-is")
    for trick, change in PATHS.items():
        yield trick, sent(method, change(path), trick)
    for trick, make in HTTP1.items():
        yield from ((trick, one) for one in make(method, path, trick))


FORMS_1 = 1 + len(PATHS) + len(HTTP1)


def told(what: str, routes: int, tricks: int, states: int, statuses: Mapping[int, int]) -> None:
    """The numbers that docs/security.md quotes."""
    seen = ", ".join(f"{n} x {s or 'ended'}" for s, n in sorted(statuses.items()))
    print(f"\n{what}: {routes} routes x {tricks} forms x {states} keys, {sum(statuses.values())} requests: {seen}")


@pytest.mark.fault(25, "no key, wrong, revoked, expired, out of scope: on every route, in every disguise")
def test_without_a_good_key_nothing_arrives(keys: Keys, watched: Watched) -> None:
    start, routes, statuses = watched.mark(), watched.routes(), collections.Counter[int]()
    for state, key in keys.bad.items():
        for route in routes:
            for trick, one in in_http1(route):
                status, body = watched.gateway.ask(one, bearer(key))
                statuses[status] += 1
                if trick in SAME and route == HEALTH:
                    assert (status, body) == (200, b'{"status":"ok"}')
                elif trick in SAME and route in LISTED:
                    assert status == (403 if state == "out of scope" else 401), (state, route, trick, body)
                elif route[1] != "/health":
                    assert status in (NONE, 400, 401, 403, 404, 413), (state, route, trick, body)
    told("HTTP/1 without a good key", len(routes), FORMS_1, len(keys.bad), statuses)
    assert watched.since(start) == []


def test_what_is_nearly_a_key_is_none(keys: Keys, watched: Watched) -> None:
    start, good = watched.mark(), keys.good
    headers = [way for key in keys.false for way in ways(key)]
    headers += [
        [("Authorization", f"{scheme}{good}")] for scheme in ("", "Basic ", "Bearer", "Token ", "Bearer Bearer ")
    ]
    headers += [[("Authorization", "Bearer sk-wrong"), ("X-Api-Key", good)], [("Cookie", f"key={good}")]]
    headers += [[("Authorization", f"Bearer {good}"), ("Authorization", "Bearer sk-wrong")]]
    headers += [[("api-key", good)], [("X-Forwarded-For", "127.0.0.1")], [("x_api_key", good)]]
    for method, path in sorted(LISTED):
        for header in headers:
            status, body = watched.gateway.ask(sent(method, path, "false"), header)
            assert status == 401, (method, path, header, body)
        assert watched.gateway.ask(sent(method, f"{path}?api_key={good}&key={good}", "false"))[0] == 401
    assert watched.since(start) == []


def test_with_a_good_key_the_list_arrives_and_nothing_else(keys: Keys, watched: Watched) -> None:
    start, routes, statuses = watched.mark(), watched.routes(), collections.Counter[int]()
    for route in routes:
        for trick, one in in_http1(route):
            status, body = watched.gateway.ask(one, bearer(keys.good))
            statuses[status] += 1
            if trick not in OTHER and not (trick in SAME and (route == HEALTH or route in LISTED)):
                assert status in (NONE, 400, 404), (route, trick, body)
    told("HTTP/1 with a good key", len(routes), FORMS_1, 1, statuses)
    arrived = set(watched.since(start))
    assert {a for a in arrived if a[0] in SAME} == {(trick, *route) for trick in SAME for route in LISTED}
    rest = {a for a in arrived if a[0] not in SAME}
    assert {trick for trick, _, _ in rest} <= {*OTHER} and {(m, p) for _, m, p in rest} <= LISTED, rest


@pytest.mark.parametrize("way", range(2), ids=["bearer", "x-api-key"])
def test_a_good_key_is_good_in_both_headers(keys: Keys, watched: Watched, way: int) -> None:
    assert watched.gateway.ask(Sent("GET", "/v1/models"), ways(keys.good)[way])[0] == 200


def test_the_plain_port_leads_to_tls_and_nowhere_else(keys: Keys, watched: Watched) -> None:
    start, plain = watched.mark(), Http1(("127.0.0.1", 8080))
    for route in watched.routes():
        for trick, one in in_http1(route):
            status, body = plain.ask(one, bearer(keys.good))
            assert status in (NONE, 308, 400, 413), (route, trick, status, body)
    assert watched.since(start) == []


# ---------------------------------------------------------------------------------------------------------------------
# HTTP/2: as clients with TLS speak it, and without TLS, where a gateway that speaks it at all takes it as well.

AUTHORITY = "localhost"


def pseudo(method: str, path: str, **changed: str) -> list[tuple[str, str]]:
    found = {"method": method, "scheme": "https", "authority": AUTHORITY, "path": path, **changed}
    return [(f":{name}", value) for name, value in found.items()]


def in_http2(route: Route, own: str = "") -> Iterator[tuple[str, Headers, bytes]]:
    """A route in every disguise that HTTP/2 has. own: prefix of the service, where it has no port of its own."""
    method, path = route
    body = b"{}" if method == "POST" else b""

    def good(trick: str) -> list[tuple[str, str]]:
        return pseudo(method, marked(own + path, trick))

    yield "as-it-is", good("as-it-is"), body
    for trick, change in PATHS.items():
        yield trick, pseudo(method, marked(own + change(path), trick)), body
    for other in ("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"):
        if other != method:
            yield "method-swap", pseudo(other, marked(own + path, "method-swap")), body
    request_line = " HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics?t=smuggled HTTP/1.1\r\nX: "
    listed = f"{own}/v1/models"
    for trick, headers in {
        "path-without-slash": pseudo(method, marked(path[1:] or "x", "path-without-slash")),
        "path-with-a-request": pseudo(method, listed + request_line),
        "path-with-a-blank": pseudo(method, f"{listed} {path}"),
        "path-absolute": pseudo(method, marked(f"https://{AUTHORITY}{own}{path}", "path-absolute")),
        "path-star": pseudo(method, "*"),
        "path-empty": pseudo(method, ""),
        "path-twice": [*pseudo(method, listed), (":path", marked(path, "path-twice"))],
        "path-missing": [h for h in good("path-missing") if h[0] != ":path"],
        "method-with-a-request": pseudo(f"GET {listed}{request_line}", path),
        "method-twice": [*good("method-twice"), (":method", "GET")],
        "method-missing": [h for h in good("method-missing") if h[0] != ":method"],
        "scheme-with-a-path": pseudo(method, own + path, scheme="http://127.0.0.1:8000/v1/models?"),
        "scheme-missing": [h for h in good("scheme-missing") if h[0] != ":scheme"],
        "authority-elsewhere": pseudo(method, marked(own + path, "authority-elsewhere"), authority="engine:8000"),
        "authority-with-a-path": pseudo(
            method, marked(own + path, "authority-with-a-path"), authority=f"{AUTHORITY}/v1/models?"
        ),
        "authority-twice": [*good("authority-twice"), (":authority", "engine:8000")],
        "host-elsewhere": [*good("host-elsewhere"), ("host", "engine:8000")],
        "pseudo-after-header": [("x", "y"), *good("pseudo-after-header")],
        "pseudo-unknown": [*good("pseudo-unknown"), (":status", "200")],
        "protocol": pseudo("CONNECT", marked(own + path, "protocol"), protocol="websocket"),
        "transfer-encoding": [*good("transfer-encoding"), ("transfer-encoding", "chunked")],
        "connection": [*good("connection"), ("connection", "keep-alive")],
        "upper-case-name": [*good("upper-case-name"), ("X-Upper", "y")],
        "length-that-lies": [*good("length-that-lies"), ("content-length", "1")],
        "header-with-a-request": [*good("header-with-a-request"), ("x", f"y\r\n\r\n{request_line}")],
        "name-with-a-request": [*good("name-with-a-request"), ("x: y\r\n\r\nget /metrics", "y")],
    }.items():
        yield trick, headers, SMUGGLED if trick in ("transfer-encoding", "length-that-lies") else body


# What comes down to the very request, as by its port a service is found under any name.
SAME_2 = ("as-it-is", "authority-elsewhere", "host-elsewhere")
# What may come down to another one that is listed: an extended CONNECT is a GET, a path in the authority is the path.
OTHER_2 = ("method-swap", "protocol", "authority-with-a-path")


@pytest.mark.parametrize(
    ("tls", "all_of_them"),
    [
        pytest.param(True, False, id="tls-some"),
        pytest.param(True, True, id="tls", marks=pytest.mark.slow),
        pytest.param(False, True, id="clear", marks=pytest.mark.slow),
    ],
)
def test_over_http_2_the_same_holds(keys: Keys, watched: Watched, tls: bool, all_of_them: bool) -> None:
    start, routes, statuses = watched.mark(), watched.routes(), collections.Counter[int]()
    wire, own = Http2(("127.0.0.1", 5010)), ""
    if tls:
        wire, own = Http2(("127.0.0.1", 8443), ROOT / "gateway/ca/ca.pem"), f"/{SERVICE}"
    if not all_of_them:  # each disguise that ends a connection costs a handshake
        routes = [HEALTH, ("GET", "/metrics"), ("POST", "/invocations"), *sorted(LISTED)]
    tricks = {trick for trick, _, _ in in_http2(HEALTH)}
    bad = {n: k for n, k in keys.bad.items() if all_of_them or n in ("none", "wrong")}
    states = {**bad, "good": keys.good}
    for state, key in states.items():
        for route in routes:
            for trick, headers, body in in_http2(route, own):
                status = wire.ask([*headers, *((n.lower(), v) for n, v in bearer(key))], body)
                statuses[status] += 1
                if trick == "as-it-is" and route in LISTED:
                    denied = 403 if state == "out of scope" else 401
                    assert (status == denied) == (state != "good"), (state, route, status)
                elif state != "good" and route[1] != "/health":
                    assert status in (NONE, 400, 401, 403, 404), (state, route, trick, status)
    told(f"HTTP/2{' over TLS' * tls}", len(routes), len(tricks), len(states), statuses)
    arrived = set(watched.since(start))
    assert {a for a in arrived if a[0] == "as-it-is"} == {("as-it-is", *route) for route in LISTED}
    assert {trick for trick, _, _ in arrived} <= {*SAME_2, *OTHER_2} and {(m, p) for _, m, p in arrived} <= LISTED, (
        arrived
    )


# ---------------------------------------------------------------------------------------------------------------------
# Too much.


@pytest.mark.fault(38, "bodies beyond the limit, bodies of unknown length, too many headers and too large ones")
def test_what_is_too_large_is_refused_and_costs_others_nothing(keys: Keys, watched: Watched) -> None:
    start, good = watched.mark(), bearer(keys.good)
    limit, whole = 32 * 2**20, b"x" * 2**20
    chunk = b"100000\r\n" + whole + b"\r\n"
    for path in ("/v1/chat/completions", "/v1/messages"):
        for key, denied in ((good, 413), (bearer("sk-wrong"), 401)):
            # The gateway answers before the body has come.
            large = Sent("POST", path, framing=[("Content-Length", str(limit + 1))], body=whole[:65536], alone=True)
            status, text = watched.gateway.ask(large, key)
            assert status == denied, text
            said = json.loads(text)
            assert said["request_id"] and (said.get("type") == "error") == path.endswith("messages")
            status, text = watched.gateway.ask(Sent("POST", path, framing=[CHUNKED], body=chunk * 2, alone=True), key)
            assert status == denied, text
        for headers in (
            [(f"x-{n}", "1") for n in range(101)],
            [(f"x-{n}", "1") for n in range(900)],
            [("x", "1" * 32768)],
            [(f"x-{n}", "1" * 8000) for n in range(5)],
        ):
            status, text = watched.gateway.ask(Sent("POST", path, headers=headers, body=b"{}"), good)
            assert (status, json.loads(text)["error"]["code"]) == (431, "headers_too_large")
        for headers in ([(f"x-{n}", "1") for n in range(4000)], [("x", "1" * 2**21)]):
            status, _ = watched.gateway.ask(Sent("POST", path, headers=headers, body=b"{}", alone=True), good)
            assert status in (NONE, 400, 431), "more than fits into the buffer"
        assert watched.gateway.ask(Sent("GET", "/v1/models"), good)[0] == 200
    arrived = [path for _, method, path in watched.since(start) if (method, path) != ("GET", "/v1/models")]
    assert arrived == []
