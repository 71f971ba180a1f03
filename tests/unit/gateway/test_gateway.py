"""Names, ports and backends of the gateway; keys of clients; what of a configuration can be changed in the HAProxy that runs."""

from __future__ import annotations

import dataclasses
import gzip
import json
import socket
import subprocess
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import llm_client_key
import llm_key_leaks
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.declare.facts import Route
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.gateway import certificates, haproxy, leaks
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.gateway import routes as gateway_routes
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import program

from tests import catalogs

NOW = 1_800_000_000.0


def route(service: str, port: int, container: str = "c", model: str = "", hostname: str = "") -> Route:
    return {
        "service": service,
        "port": port,
        "container": container,
        "model": model,
        "hostname": hostname,
        "at_once": 0,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Routes.


def test_every_service_has_a_port_a_prefix_a_host_name_and_its_model() -> None:
    (pool,) = gateway_routes.backends([route("micro", 5000, "llm-micro-1", "qwen", "small")], "example.org")
    assert pool["ports"] == [5000] and pool["prefixes"] == ["micro"] and pool["models"] == ["qwen"]
    assert pool["hosts"] == ["api.small.example.org"]
    assert pool["servers"] == [{"name": "micro", "container": "llm-micro-1", "at_once": 0}]


def test_services_of_one_model_share_what_names_the_model_and_keep_what_names_them() -> None:
    routes = [route("a", 1, "ca", "m", "x"), route("b", 2, "cb", "m", "x"), route("c", 3, "cc", "n", "y")]
    backends = {p["name"]: p for p in gateway_routes.backends(routes, "d")}
    assert list(backends) == ["a", "b", "c", "all-a"]
    assert backends["all-a"]["models"] == ["m"] and backends["all-a"]["hosts"] == ["api.x.d"]
    assert [s["container"] for s in backends["all-a"]["servers"]] == ["ca", "cb"]
    assert backends["a"]["prefixes"] == ["a"] and not backends["a"]["models"] and not backends["a"]["hosts"]
    assert backends["c"]["models"] == ["n"] and backends["c"]["hosts"] == ["api.y.d"]


def test_without_a_domain_there_are_no_host_names() -> None:
    assert gateway_routes.backends([route("a", 1, hostname="x")])[0]["hosts"] == []


def test_a_pool_is_back_with_its_first_and_stopped_with_its_last() -> None:
    open_, unknown = route("a", 1, "ca", "m"), route("b", 2, "", "m")
    closed: Any = {**route("a", 1, "", "m"), "returns_in": 90}
    stopped: Any = {**route("b", 2, "", "m"), "stopped": True}
    assert gateway_routes.returns([open_, stopped]) == {"b": gateway_routes.STOPPED}
    assert gateway_routes.returns([closed, unknown]) == {"a": 90, "all-a": 90}
    assert gateway_routes.returns([closed, stopped]) == {"a": 90, "b": gateway_routes.STOPPED, "all-a": 90}
    both: list[Any] = [{**closed, "stopped": True}, stopped]
    assert gateway_routes.returns(both) == dict.fromkeys(("a", "b", "all-a"), gateway_routes.STOPPED)
    assert gateway_routes.returns([route("a", 1, "", "m"), stopped]) == {"b": gateway_routes.STOPPED}, (
        "nobody knows of a"
    )


def test_the_running_door_is_asked_who_was_stopped() -> None:
    assert gateway_routes.stopped(f"a {gateway_routes.STOPPED}\nb 1790000000\nc {gateway_routes.STOPPED}\n\nd\n") == [
        "a",
        "c",
    ]


def test_a_model_s_name_cannot_leave_its_place_in_the_configuration() -> None:
    assert gateway_routes.listing("a'b%\"c") == (
        """'%[var(txn.models)],{"id":"a'\\''b%%\\"c","object":"model","created":0,"owned_by":"llm"}'"""
    )


CONFIG = """\
frontend door
    bind :1
backend a
    server a old:8000 check inter 2s{a}
backend all-a
    server a old:8000 check inter 2s{a}
"""


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("old:8000 check inter 2s", "new:8000 check inter 2s", ("old", "new")),
        ("old:8000 check inter 2s", "localhost:8000 check inter 2s disabled", ("old", "")),
        ("localhost:8000 check inter 2s disabled", "new:8000 check inter 2s", ("", "new")),
    ],
)
def test_another_engine_behind_a_service_needs_no_reload(before: str, after: str, changes: tuple[str, str]) -> None:
    old, new = (CONFIG.format(a="").replace("old:8000 check inter 2s", text) for text in (before, after))
    was, now = changes
    assert gateway_routes.switched(old, new) == [
        {"server": f"{b}/a", "before": was, "after": now} for b in ("a", "all-a")
    ]


@pytest.mark.parametrize(
    "change", [("2s", "3s"), ("bind :1", "bind :2"), ("server a", "server b"), ("backend a\n", "")]
)
def test_anything_else_does(change: tuple[str, str]) -> None:
    text = CONFIG.format(a="")
    assert gateway_routes.switched(text, text.replace(*change)) is None


# ---------------------------------------------------------------------------------------------------------------------
# The declaration.


def found(inventory: str = "rtx4090x3", **changed: Any) -> list[tuple[str, str]]:
    findings = gateway_plan.findings(catalogs.declared(inventory, **changed))
    return [(f.id, f.key) for entries in findings.values() for f in entries]


def test_the_catalogs_go_together() -> None:
    assert found() == found("demo") == []


def test_a_port_of_the_door_is_no_service_s_and_not_used_twice() -> None:
    assert found(gateway={"https_port": 5002}) == [("port-clash", "llm_gateway.https_port")]
    assert found(gateway={"https_port": 444, "http_port": 444}) == [("port-clash", "llm_gateway.http_port")]
    assert found(gateway={"https_port": 0, "http_port": 0}) == []


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({}, ""),
        ({"bind_address": "192.0.2.1"}, "llm_bind_address"),
        ({"bind_address": "192.0.2.1", "gateway": {"https_port": 0}}, ""),
        ({"bind_address": "192.0.2.1", "gateway": {"ports_address": "127.0.0.1"}}, ""),
        ({"bind_address": "192.0.2.1", "gateway": {"ports_address": "::1"}}, ""),
        ({"gateway": {"ports_address": "0.0.0.0"}}, "llm_gateway.ports_address"),
    ],
)
def test_plain_ports_that_others_reach_are_told_where_there_is_tls(changed: dict[str, Any], key: str) -> None:
    assert found(**changed) == ([("plain-ports", key)] if key else [])


def test_the_door_is_named_to_clients_as_it_answers_and_certifies() -> None:
    def known(reached: str, **changed: Any) -> str:
        return gateway_plan.known_as(catalogs.declared("demo", **changed), reached)

    assert known("box", bind_address="192.0.2.1") == "192.0.2.1"
    assert known("box", bind_address="0.0.0.0", domain="x.org") == "api.x.org"
    assert known("box", bind_address="0.0.0.0", gateway={"names": ["other.org", "box"]}) == "box"
    assert known("box", bind_address="0.0.0.0") == "box"


# ---------------------------------------------------------------------------------------------------------------------
# What a host is to have.

TEXTS = {"compose.yml": "c", "etc/haproxy.cfg": "h", "etc/door.lua": "l"}
ROUTES = [route("a", 5000), route("b", 5001)]


def test_without_settings_services_have_their_ports_alone() -> None:
    values = gateway_plan.values({}, ROUTES, "192.0.2.1")
    assert (values["ports"], values["ports_address"]) == ([5000, 5001], "192.0.2.1")
    assert (values["https_port"], values["http_port"], values["body_limit"]) == (0, 0, 32 * 2**20)


def test_the_gateway_s_own_ports_come_first_and_services_may_be_published_elsewhere() -> None:
    declared = catalogs.declared("rtx4090x3", bind_address="192.0.2.1", gateway={"ports_address": "::1", "wait": 7})
    values = gateway_plan.values(gateway_plan.settings(declared), ROUTES, "192.0.2.1")
    assert (values["ports"], values["ports_address"], values["wait"]) == ([443, 80, 5000, 5001], "::1", 7)
    assert values["whole"] < values["buffer"], "what may not have been read whole is not looked into"
    assert [b["name"] for b in values["backends"]] == ["a", "b"] and values["returns"] == {}


def test_engines_that_share_requests_have_their_own_patience_or_the_usual_one() -> None:
    own: Any = {**route("b", 2, model="m"), "progress_timeout": 180}
    routes = [route("a", 1, model="m"), own, route("c", 3, model="n")]
    assert gateway_plan.values({}, routes, "::1")["stalled"] == {"a": 60, "b": 180}


LOADED = " ".join([program.sha256("c"), program.sha256("hl"), "0123456789ab"])
RUNS: Any = {
    "state": "running",
    "id": "0123456789ab",
    "files": program.sums(TEXTS),
    "loaded": f"{LOADED} keys certificate",
    "due": [],
}


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"loaded": None}, False),
        ({"loaded": f"- {LOADED}"}, False),
        ({"id": "another"}, False),
        ({"state": "exited"}, False),
        ({"files": {**program.sums(TEXTS), "etc/door.lua": "edited"}}, False),
        ({"due": ["keys: others"]}, False),
    ],
)
def test_a_gateway_is_left_alone_when_it_runs_with_what_is_declared(changed: dict[str, Any], good: bool) -> None:
    found: Any = {**RUNS, **changed}
    wanted = gateway_plan.wanted(TEXTS, ROUTES, found)
    assert wanted["good"] is good and wanted["files"] == TEXTS
    assert changed.get("id") or wanted["loaded"] == LOADED


def test_a_host_that_was_not_read_has_no_gateway() -> None:
    assert not gateway_plan.wanted(TEXTS, ROUTES, {})["good"]


def test_without_routes_there_is_to_be_none() -> None:
    states: list[gateway_plan.Found] = [{}, {"state": "absent"}, {"state": "exited"}, RUNS]
    found = [gateway_plan.wanted({}, [], facts) for facts in states]
    assert [w["good"] for w in found] == [True, True, False, False] and all(not w["files"] for w in found)


# ---------------------------------------------------------------------------------------------------------------------
# Keys.


KNOWN = ["micro", "mini"]


def made(**given: Any) -> tuple[list[gateway_keys.ClientKey], gateway_keys.ClientKey, str]:
    given = {"client": "alice", "services": ["micro"], **given}
    return gateway_keys.create([], gateway_keys.wanted_key(given, KNOWN, NOW), NOW)


def test_a_new_key_is_kept_as_its_hash_alone() -> None:
    keys, key, text = made(per_minute=60, at_once=2, queue=1, expires="90d")
    kept = json.dumps(gateway_keys.document(keys))
    assert text.startswith("sk-") and len(text) > 40 and text not in kept and gateway_keys.sha256(text) in kept
    assert gateway_keys.keys_of(json.loads(kept)) == [key]
    assert gateway_keys.key_map(keys, {}, NOW) == (
        f"{gateway_keys.sha256(text)} alice|{key.id}|{int(NOW) + 90 * 86400}|60|2|1|,micro,\n"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"services": ["micr"]}, "Did you mean `micro`?"),
        ({"services": []}, "llm_key_services is missing"),
        ({"client": "micro"}, "is a service"),
        ({"client": "Al|ice"}, "lower case letters"),
        ({"per_minute": 0}, "llm_key_per_minute is 0"),
        ({"at_once": 0}, "llm_key_at_once is 0"),
        ({"queue": 2}, "without llm_key_at_once"),
        ({"expires": "2001-01-01"}, "which has passed"),
        ({"expires": "soon"}, "write 90d, 12h, or a date"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(gateway_keys.Refused, match=says.replace("|", r"\|").replace("?", r"\?")):
        made(**given)


def test_a_client_has_one_key_until_it_is_rotated() -> None:
    keys, first, text = made(per_minute=5)
    with pytest.raises(gateway_keys.Refused, match="has a key already"):
        gateway_keys.create(keys, gateway_keys.wanted_key({"client": "alice", "services": ["mini"]}, KNOWN, NOW), NOW)
    keys, second, new = gateway_keys.rotate(keys, "alice", "24h", NOW + 10)
    assert (second.services, second.per_minute) == (first.services, 5) and new != text
    assert [k.state(NOW + 20) for k in keys] == ["valid", "valid"]
    assert [k.state(NOW + 10 + 86400) for k in keys] == ["expired", "valid"]
    keys, _, _ = gateway_keys.rotate(keys, "alice", "0h", NOW + 30)
    assert [k.state(NOW + 30) for k in keys] == ["expired", "expired", "valid"]


def test_a_revoked_key_is_as_unknown_as_any_other() -> None:
    keys, key, _ = made()
    for named in ("alice", key.id):
        assert gateway_keys.key_map(gateway_keys.revoke(keys, named, NOW), {}, NOW) == ""
    with pytest.raises(gateway_keys.Refused, match="Clients here: alice"):
        gateway_keys.revoke(keys, "bob", NOW)


def test_a_service_s_own_key_is_for_that_service_alone() -> None:
    line = gateway_keys.key_map([], {"micro": ["sk-own"]})
    assert line == f"{gateway_keys.sha256('sk-own')} micro|micro|{gateway_keys.NEVER}|0|0|0|,micro,\n"


def test_the_door_uses_the_newest_key_that_all_engines_of_a_pool_know() -> None:
    assert gateway_keys.front_key([["new", "old", "own"], ["old", "older", "own"]]) == "old"
    assert gateway_keys.front_key([["new", "old"], ["new", "old"]]) == "new"
    assert gateway_keys.front_key([]) == gateway_keys.front_key([["a"], ["b"]]) == ""
    assert gateway_keys.engine_key_is_old(["old", "own"], ["new", "old"])
    assert not gateway_keys.engine_key_is_old(["own"], ["new", "old"]) and not gateway_keys.engine_key_is_old(
        ["new"], ["new"]
    )


def test_leaks_name_the_line_and_never_the_key() -> None:
    key = "sk-AbCdEfGhIjKlMnOpQrStUvWx"
    text = f"fine\nkey={key}\nBearer {key}.\n"
    assert leaks.leaked(text, {gateway_keys.sha256(key): "key of alice"}) == [(2, "key of alice"), (3, "key of alice")]


KEY = "sk-AbCdEfGhIjKlMnOpQrStUvWx"
KNOWN_KEY = {gateway_keys.sha256(KEY): "key of alice"}


@pytest.mark.parametrize(
    "line",
    [
        f"GET https://h/{KEY}/v1 200",
        f"/a/path/that/is/long/{KEY}.",
        f"Authorization=Bearer%20{KEY}",
        f"next=https%3A%2F%2Fh%2F{KEY}%2Fv1",
        f"%22{KEY}%22",
        f"{KEY} and {KEY}",
        f"path/key={KEY}",
    ],
)
def test_a_key_is_found_as_a_url_has_it(line: str) -> None:
    assert leaks.leaked(f"\n{line}\n", KNOWN_KEY) == [(2, "key of alice")]


@pytest.mark.parametrize("key", ["base64/of+a-key/with==", "a/b/c/d/e/f/g/h/i/j"])
def test_a_key_with_slashes_is_found_whole(key: str) -> None:
    for form in (key, key.replace("/", "%2F")):
        assert leaks.leaked(f"key: {form}", {gateway_keys.sha256(key): "x"}) == [(1, "x")]


def test_only_the_files_that_keep_keys_are_left_out_of_the_search(tmp_path: Path) -> None:
    root, checkout = tmp_path / "llm", tmp_path / "checkout"
    homes = ["services/a/releases/1/secrets/engine.yml", "services/a/releases/1/secrets/client-key", "keys/a"]
    homes += ["gateway/engine-keys", "gateway/etc/maps/engines.map"]
    places = ["secrets/x", "services/a/secrets/x", "services/a/releases/1/secrets/more/x", "gateway/keys", "state/x"]
    for place in (*(root / p for p in (*homes, *places)), checkout / "secrets/x", checkout / "keys/x"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{KEY}\n")
    found = leaks.leaks_in(root, KNOWN_KEY, root)
    assert sorted(found) == sorted(f"{root / p}:1: key of alice" for p in places)
    assert len(leaks.leaks_in(checkout, KNOWN_KEY, root)) == 2


def test_logs_that_were_packed_are_searched_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    packed = gzip.compress(f"fine\n{KEY}\n".encode(), 0)
    (tmp_path / "syslog.2.gz").write_bytes(packed)
    (tmp_path / "cut.gz").write_bytes(packed[:-6])
    (tmp_path / "none.gz").write_text("no gzip")
    found = leaks.leaks_in(tmp_path, KNOWN_KEY, tmp_path / "llm")
    assert sorted(found) == [f"{tmp_path / n}:2: key of alice" for n in ("cut.gz", "syslog.2.gz")]


def test_what_is_packed_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "LARGEST", 2**20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(2**26)))
    assert 2**20 <= len(leaks.text_of(path)) <= 2**21


def test_every_container_of_the_project_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    labels = [*names.LABELS, "other"]
    entries = [{"Id": n, "Names": [f"/{n}"], "Labels": {n: "1"}} for n in labels]
    monkeypatch.setattr(docker_api, "get", lambda path: entries if "all=1" in path else {"Env": [KEY]})
    monkeypatch.setattr(llm_key_leaks, "Path", lambda _: tmp_path)  # without processes
    module = types.SimpleNamespace(run_command=lambda _: (0, f"log {KEY}\n", ""))
    found, _ = llm_key_leaks.in_containers(cast("AnsibleModule", module), KNOWN_KEY)
    assert found == [
        text
        for n in names.LABELS
        for text in (f"docker inspect {n}: key of alice", f"log of container {n}, line 1: key of alice")
    ]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"client": "a|b"}, "lower case letters"),
        ({"client": "*"}, "lower case letters"),
        ({"services": ["micro\n00 x"]}, "lower case letters"),
        ({"services": []}, "for no service"),
        ({"sha256": "abc"}, "64 hex digits"),
        ({"per_minute": -1}, "per_minute must be a whole number"),
        ({"at_once": "2"}, "at_once must be a whole number"),
        ({"expires": "2027-01-01"}, "expires must be a whole number"),
        ({"queue": 3}, "queue without at_once"),
        ({"limit": 3}, "TypeError"),
    ],
)
def test_an_edited_file_of_keys_is_refused_by_the_plan_and_by_the_verb(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    keys, _, _ = made()
    gateway_host.keep_clients(tmp_path / "gateway", keys)
    path = tmp_path / "gateway" / gateway_host.CLIENTS
    assert gateway_host.clients(path.parent) == keys
    content = json.loads(path.read_text())
    content["keys"][0].update(changed)
    path.write_text(json.dumps(content))
    found = gateway_host.facts(tmp_path, {}, NOW)["clients"]
    (finding,) = gateway_plan.key_findings(catalogs.declared("demo"), found)
    assert (finding.id, finding.severity) == ("client-keys", "error") and says in finding.message
    with pytest.raises(gateway_keys.Refused, match="all clients then need new keys"):
        gateway_host.clients(path.parent)


def test_a_key_for_a_service_that_is_gone_is_told_and_stops_nothing(tmp_path: Path) -> None:
    _, key, _ = made()
    keys = [dataclasses.replace(key, services=("micr",)), dataclasses.replace(key, id="k2", services=("*",))]

    def told(keys: Sequence[gateway_keys.ClientKey]) -> list[Finding]:
        gateway_host.keep_clients(tmp_path / "gateway", keys)
        return gateway_plan.key_findings(catalogs.declared("demo"), gateway_host.facts(tmp_path, {}, NOW)["clients"])

    (finding,) = told(keys)
    assert (finding.id, finding.severity) == ("client-scope", "warn") and "Did you mean `micro`?" in finding.remedy
    assert told(gateway_keys.revoke(keys, key.id, NOW)) == []


class Socket:
    """HAProxy's runtime socket: takes commands, and refuses those that begin with one of `refuses`."""

    def __init__(self, folder: Path) -> None:
        self.refuses, self.asked = ("",), list[str]()
        (folder / "run").mkdir(parents=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(folder / haproxy.SOCKET))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            connection = self.listener.accept()[0]
            with connection:
                command = connection.recv(65536).decode()
                if command == "end":
                    return
                self.asked.append(command)
                if command.startswith(self.refuses):
                    connection.sendall(b"Unknown command\n")
                else:
                    connection.sendall(b"New version created: 1\n" if command.startswith("prepare") else b"\n")

    def end(self) -> None:
        """Listen no more; the file stays, as it does after a HAProxy that was killed."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self.listener.getsockname())
            connection.sendall(b"end")
        self.thread.join()
        self.listener.close()


@pytest.fixture
def haproxy_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Socket]:
    """A gateway with a client's key, whose HAProxy takes nothing until it is let."""
    folder = tmp_path / "gateway"
    gateway_host.keep_clients(folder, made()[0])
    monkeypatch.setattr(gateway_host, "service_keys", lambda *_: {})
    (folder / gateway_host.MAPS).mkdir(parents=True)
    text = gateway_keys.key_map(gateway_host.clients(folder), {})
    (folder / gateway_host.MAPS / "keys.map").write_text(text)
    (folder / "loaded").write_text(f"compose config container {gateway_host.digest(text)} certificate\n")
    monkeypatch.chdir(folder)  # the path of a socket may have 108 characters
    served = Socket(Path())
    yield served
    if served.thread.is_alive():
        served.end()


def key_verb(root: Path, do: str) -> dict[str, Any]:
    options = dict.fromkeys(("services", "per_minute", "at_once", "queue", "expires"))
    given = {"root": str(root), "do": do, "client": "alice", "known": KNOWN, "overlap": "0h"}
    return llm_client_key.act({**options, **given}, check_mode=False)


@pytest.mark.parametrize(
    ("do", "refused"),
    [  # an empty map has nothing to add
        *(("rotate", step) for step in ("prepare", "add", "commit", "dead")),
        *(("revoke", step) for step in ("prepare", "commit", "dead")),
    ],
)
def test_a_change_of_keys_that_haproxy_did_not_take_is_due_until_it_did(
    haproxy_socket: Socket, tmp_path: Path, do: str, refused: str
) -> None:
    haproxy_socket.refuses = (refused,)
    if refused == "dead":
        haproxy_socket.end()
    before = gateway_host.clients(tmp_path / "gateway")
    found = key_verb(tmp_path, do)
    assert not found["applied"] and "Run site.yml" in found["problem"]
    assert ("key" in found) is (do == "rotate"), "it is kept nowhere"
    changed = gateway_host.clients(tmp_path / "gateway")
    assert changed != before and found["changed"]
    due = ["keys: others are to pass than those that do"]
    assert gateway_host.facts(tmp_path, {}, NOW)["due"] == due
    gateway_host.keep_clients(tmp_path / "gateway", before)
    assert gateway_host.facts(tmp_path, {}, NOW)["due"] == due, "nobody knows what it has"
    gateway_host.keep_clients(tmp_path / "gateway", changed)
    if refused != "dead":
        haproxy_socket.refuses = ("nothing",)
        assert gateway_host.refresh_keys(tmp_path) == "applied"
        assert gateway_host.facts(tmp_path, {}, NOW)["due"] == [] and gateway_host.refresh_keys(tmp_path) == ""


def test_a_change_of_keys_that_haproxy_took_is_told(haproxy_socket: Socket, tmp_path: Path) -> None:
    haproxy_socket.refuses = ("nothing",)
    found = key_verb(tmp_path, "rotate")
    assert found["applied"] and found["problem"] == "" and gateway_host.facts(tmp_path, {}, NOW)["due"] == []
    assert gateway_keys.sha256(found["key"]) in next(c for c in haproxy_socket.asked if c.startswith("add map @1"))


# ---------------------------------------------------------------------------------------------------------------------
# Certificates.


def openssl(folder: Path, name: str, days: int, names: Sequence[str] = ("api.x.org", "*.y.org")) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    listed = ",".join(f"DNS:{n}" for n in names)
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    argv += ["-addext", f"subjectAltName={listed}", "-days", str(days), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(argv, check=True, capture_output=True)
    return cert, key


def test_a_given_certificate_is_read_and_matched_with_its_key(tmp_path: Path) -> None:
    cert, key = openssl(tmp_path, "one", 90)
    _, other = openssl(tmp_path, "two", 90)
    begins = certificates.read(cert)["begins"]
    good = certificates.given(cert, key, begins)
    assert good["names"] == ["api.x.org", "*.y.org"] and not good["problem"]
    assert good["pem"] == cert.read_text() + key.read_text()
    assert "does not belong to it" in certificates.given(cert, other, begins)["problem"]
    assert "No such file" in certificates.given(cert, tmp_path / "none", 0)["problem"]
    assert "No such file" in certificates.given(tmp_path / "none", key, 0)["problem"]
    assert "is no certificate" in certificates.given(key, key, 0)["problem"]
    early = certificates.given(cert, key, begins - 1)
    assert "is not valid before" in early["problem"] and not early["pem"]
    assert "has ended" in certificates.given(cert, key, good["expires"] + 1)["problem"]


def test_the_plan_refuses_one_that_is_not_for_these_names_and_warns_before_it_ends() -> None:
    declared = catalogs.declared("rtx4090x3", gateway={"certificate": "/c.pem", "key": "/k.pem"})
    names = ["*.example.org", "*.medium.example.org", "*.mini.example.org"]
    good = {"names": names, "expires": NOW + 90 * 86400, "problem": ""}

    def said(**found: Any) -> list[tuple[str, str]]:
        seen: Any = {**good, **found}
        return [(f.id, f.severity) for f in gateway_plan.host_findings(declared, seen, NOW)]

    assert said() == []
    assert said(names=["api.example.org"]) == [("certificate-names", "error")]
    assert said(problem="/c.pem: Permission denied") == [("certificate", "error")]
    assert said(expires=NOW + 86400) == [("certificate-ends", "warn")]
