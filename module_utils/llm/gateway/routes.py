"""Routes of the gateway: which names, ports and models lead to which engines. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypedDict

from ansible.module_utils.llm.declare.facts import Route

STOPPED = -1  # in the place of the seconds until a service is back; door.lua knows it too


class Server(TypedDict):
    """An engine of a backend. name: its service. container: "" while its route is closed. at_once: requests, 0 if it decides."""

    name: str
    container: str
    at_once: int


class Backend(TypedDict):
    """Engines that answer for the same services, and by which ports, host names, first parts of a path, and models they do."""

    name: str
    services: list[str]
    ports: list[int]
    hosts: list[str]
    prefixes: list[str]
    models: list[str]
    servers: list[Server]


class Switch(TypedDict):
    """A server (`backend/name`) that leads elsewhere: containers before and after, "" for a closed route."""

    server: str
    before: str
    after: str


def backends(routes: Iterable[Route], domain: str = "") -> list[Backend]:
    """Backends of the gateway.

    One backend a service, for its port and its prefix; services of one model (placement refuses one name for
    different models) form a further backend, `all-<the first of them>`, for requests by model or by a host name that they share.
    """
    routes = list(routes)
    found: list[Backend] = [
        {
            "name": r["service"],
            "services": [r["service"]],
            "ports": [r["port"]],
            "hosts": [],
            "prefixes": [r["service"]],
            "models": [],
            "servers": [_server(r)],
        }
        for r in routes
    ]
    own = {p["name"]: p for p in found}
    by_model: dict[str, list[Route]] = {}
    for route in routes:
        by_model.setdefault(route.get("model") or "", []).append(route)
    for model, members in by_model.items():
        backend = own[members[0]["service"]]
        if model and len(members) > 1:
            backend = {
                "name": f"all-{members[0]['service']}",
                "services": [m["service"] for m in members],
                "ports": [],
                "hosts": [],
                "prefixes": [],
                "models": [],
                "servers": [_server(m) for m in members],
            }
            found.append(backend)
        if model:
            backend["models"].append(model)
        hosts = [m["hostname"] for m in members if m.get("hostname") and domain]
        for member in members:
            name = member.get("hostname")
            if name and domain:
                target = backend if hosts.count(name) > 1 else own[member["service"]]
                target["hosts"] = list(dict.fromkeys([*target["hosts"], f"api.{name}.{domain}"]))
    return found


def _server(route: Route) -> Server:
    return {"name": route["service"], "container": route["container"], "at_once": route.get("at_once") or 0}


def returns(routes: Iterable[Route], domain: str = "") -> dict[str, int]:
    """Seconds until closed backends are expected back, STOPPED for those that are not; unknown ones are left out.

    Routes say so with `returns_in` or `stopped`. A backend of several services is back with the first of them.
    """
    routes = list(routes)
    closed = [r for r in routes if not r.get("container")]
    known = {r["service"]: STOPPED if r.get("stopped") else r.get("returns_in", 0) for r in closed}
    found = {}
    for backend in backends(routes, domain):
        if all(s in known for s in backend["services"]):
            expected = [known[s] for s in backend["services"]]
            back = [e for e in expected if e > 0]
            if back or all(e == STOPPED for e in expected):
                found[backend["name"]] = min(back, default=STOPPED)
    return found


def stopped(returns_map: str) -> list[str]:
    """Backends that were stopped on purpose, by the map that HAProxy has; see `returns`."""
    words = [line.split() for line in returns_map.splitlines()]
    return [name for name, when in (w for w in words if len(w) == 2) if when == str(STOPPED)]


def listing(model: str) -> str:
    """A model's entry in the answer of /v1/models, as HAProxy's configuration takes it: a format in strong quotes."""
    entry = json.dumps({"id": model, "object": "model", "created": 0, "owned_by": "llm"}, separators=(",", ":"))
    return "'%[var(txn.models)]," + entry.replace("%", "%%").replace("'", "'\\''") + "'"


def switched(before: str, after: str) -> list[Switch] | None:
    """Which servers lead elsewhere between two configurations; None when more differs.

    Only differences of this kind can be made in the running HAProxy, without a reload.
    """
    old, new = (text.splitlines() for text in (before, after))
    if len(old) != len(new):
        return None
    found: list[Switch] = []
    backend = ""
    for was, now in zip(old, new, strict=True):
        if now.startswith("backend "):
            backend = now.split()[1]
        if was == now:
            continue
        a, b = _server_line(was), _server_line(now)
        if a is None or b is None or a[0] != b[0] or a[2] != b[2]:
            return None
        found.append({"server": f"{backend}/{b[0]}", "before": a[1], "after": b[1]})
    return found


def _server_line(line: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Name, container ("" when closed) and options of a `server` line."""
    words = line.split()
    if words[:1] != ["server"]:
        return None
    closed = words[-1] == "disabled"
    return words[1], "" if closed else words[2].rpartition(":")[0], tuple(words[3 : len(words) - closed])
