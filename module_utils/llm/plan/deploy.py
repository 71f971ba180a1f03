"""How a release takes the place of another: what is in the way, when an engine is idle, when memory is free again.

Pure functions of what the plan, the host and the engines say; roles and modules act on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Service
from ansible.module_utils.llm.declare.variables import SMOKE, WARMUP
from ansible.module_utils.llm.plan import compose

BULKY = (
    "facts",
    "files",
    "preflight",
    "fit",
    "findings",
    "kv_tokens",
    "verdict",
    "boot_records",
    "side_by_side",
    "side_by_side_why",
)  # of a plan: what a return does not need
ASKED = {
    "smoke": (
        "model",
        "args",
        "accelerator",
        "catalog_model",
        "vision",
        "context",
        *(k for k in SMOKE if k != "margin"),
    ),
    "warmup": ("model", *WARMUP),
}
"""Keys of `ask` by module, which are the module's options there. `margin` is the plan's alone: module llm_smoke measures it."""


def routes(
    routes: Iterable[Mapping[str, Any]],
    containers: Mapping[str, str],
    returning: Iterable[Mapping[str, Any]] = (),
    back_in: float = 0,
) -> list[dict[str, Any]]:
    """The gateway's routes with other containers behind some of them; with "" new requests wait, then get 503 (Retry-After).

    returning: plans of releases that are to serve again, though the routes may give their port to another service; or, with
    `stopped`, of those that are not to, until somebody deploys them: requests get 503 at once. back_in:
    seconds after which what is closed is expected back; 0 where nobody knows.
    """
    closed = {"returns_in": int(back_in)} if back_in else {}
    back = {
        p["port"]: {
            "service": p["name"],
            "container": p["container"],
            **(p.get("route") or {"port": p["port"]}),
            **({"stopped": True} if p.get("stopped") else {}),
        }
        for p in returning
    }
    kept: dict[Any, dict[str, Any]] = {}
    for route in routes:
        named = route["service"] in containers
        now = dict(route)
        if named:  # it is being deployed, whether or not it was stopped before
            now["container"] = containers[route["service"]]
            now.pop("stopped", None)
        kept[route["port"]] = {**now, **closed} if named and not now["container"] else now
    return sorted({**kept, **back}.values(), key=lambda r: r["port"])


def closed(
    services: Iterable[str],
    plans: Mapping[str, Mapping[str, Any]],
    releases: Mapping[str, Mapping[str, Any]],
    routes: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Plans of services with their routes closed, for `routes`: to be let finish, while new requests get 503 at once.

    One that nobody declares any more has the gateway of its release, for as long as the gateway leads to no other service (routes).
    """
    services = list(services)
    taken = {r["port"] for r in routes}
    undeclared = {s: releases.get(s, {}).get("serving") for s in services if s not in plans}
    found = [plans[s] for s in services if s in plans]
    found += [p for p in undeclared.values() if p and p["port"] not in taken]
    return [{**p, "container": "", "stopped": True} for p in found]


def ask(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a service is asked: the option `ask` of the modules llm_smoke and llm_warmup, as {smoke, warmup}.

    entry: served_model_name, model, args, accelerator, smoke (see judge.known) and warmup of the service; or `ask`, as it was kept
    with a release. Keys that the modules don't take are left out: another version of this project kept them, and what returns
    must not fail at them.
    """
    name = entry.get("served_model_name", "")
    given = entry.get("ask") or {
        "smoke": {
            "model": name,
            "args": entry.get("args", {}),
            "accelerator": entry.get("accelerator", ""),
            "catalog_model": entry.get("model", ""),
            **entry.get("smoke", {}),
        },
        "warmup": {"model": name, **entry.get("warmup", {})},
    }
    return {part: {key: given[part][key] for key in keys if key in given[part]} for part, keys in ASKED.items()}


def serving(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept with a release so that it can be started and proven again when the declaration says something else."""
    return {key: value for key, value in plan.items() if key not in BULKY}


def predecessor(plan: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Plan of the release that is current on the host; {} when there is none.

    found: entry of the service in `releases` of module llm_host_facts. A release of an older version of this project kept no
    plan of its own: what it was asked then is not known, so it is asked what is asked now.
    """
    current = found.get("current")
    if not current:
        return {}
    if found.get("serving"):
        return {**found["serving"], "ask": ask(found["serving"])}
    return {
        **serving(plan),
        "release": current,
        "container": f"llm-{plan['name']}-{current[:8]}",
        "folder": f"{plan['service_folder']}/releases/{current}",
    }


def findings(service: Service) -> list[Finding]:
    """An engine that may finish requests for longer than Docker lets it is killed while it does."""
    own = service.flag("shutdown-timeout", 0)
    if isinstance(own, (int, float)) and own >= service.stop_grace:
        message = (
            f"{own:g} s are not less than stop_grace ({service.stop_grace} s): the engine is killed while it finishes"
        )
        key = f"llm_services.{service.name}.args.shutdown-timeout"
        return [Finding("shutdown-timeout", "error", key, message, "Lower it, or raise stop_grace")]
    return []


def displaced(
    entries: Iterable[Mapping[str, str]],
    plans: Mapping[str, Mapping[str, Any]],
    releases: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Plans of the releases that have to stop for another service. entries: [{service, container}] of the plan's work."""
    found = [(e, predecessor(plans[e["service"]], releases.get(e["service"], {}))) for e in entries]
    return [{**plan, "name": e["service"], "container": e["container"]} for e, plan in found]


class Replacement(TypedDict):
    """What a deployment stops and when, by container, and what it brings back when it fails.

    again: the release that is current is started again: its container is gone, stopped, or has another key. beside: the one before
    serves on until the new one has passed its gates. room: whether something is to be done before the new one starts: a route to
    close, or containers of `before` to stop. after: containers that go once the new one serves. returning: plans of the releases
    that are started and asked again after a failure.
    """

    again: bool
    beside: bool
    room: bool
    before: list[str]
    after: list[str]
    returning: list[dict[str, Any]]


def replacement(
    plan: Mapping[str, Any],
    previous: Mapping[str, Any],
    containers: Iterable[str],
    displaced: Iterable[Mapping[str, Any]],
) -> Replacement:
    """How the release of a plan takes the place of what runs.

    previous: see predecessor. containers: of this service, on the host. displaced: see displaced.
    """
    containers, leaving = list(containers), [dict(d) for d in displaced]
    own, current = plan["container"], previous.get("container", "")
    again = previous.get("release") == plan["release"]
    beside = bool(plan.get("side_by_side")) and not again and not leaving and current in containers
    others = [c for c in containers if c != own]
    if beside:  # what is of neither was left by a run that was cut short
        before = [c for c in others if c != current]
    else:
        before = [p["container"] for p in leaving] + (containers if again else others)
    return {
        "again": again,
        "beside": beside,
        "room": not beside or bool(before),
        "before": before,
        "after": others,
        "returning": leaving or ([dict(previous)] if previous and not again else []),
    }


def expected_back(plan: Mapping[str, Any], drain: float) -> float:
    """Seconds from closing its route until a service should answer again, by the slowest boot it has had here; 0: never booted."""
    boots = [r["expected"] for r in (plan.get("boot_records") or {}).values()]
    return drain + max(boots) if boots else 0


def needs_restart(reasons: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a deployment has to touch the engine: an edited compose.yml alone is written anew, and what runs is right."""
    return any(not r.get("file_only") for r in reasons)


def stale(facts: Mapping[str, Any], services: Iterable[str], deploying: Iterable[str]) -> list[dict[str, str]]:
    """Containers of releases that are not current, left by a run that was cut short: [{service, container}].

    Those of services that are about to be deployed are that deployment's to remove.
    """
    others = {*services} - {*deploying}
    found = []
    for container in facts["containers"]:
        current = facts["releases"].get(container["service"], {}).get("current")
        if container["service"] in others and current and container["release"] != current:
            found.append({"service": container["service"], "container": container["name"]})
    return found


def rollback(
    releases: Mapping[str, Mapping[str, Any]],
    named: Iterable[str],
    declared: Mapping[str, compose.Release],
    fits: Iterable[str],
) -> dict[str, Any]:
    """What playbooks/rollback.yml does: {problem, services}; problem: why it is refused, "" when it is not.

    releases: of module llm_host_facts. named: services of --tags. declared: releases that the declaration makes. fits: services
    of which two releases may run side by side. services: [{name, reasons, plan, keep}]; plan: of the release that returns; keep:
    how an operator keeps it.
    """
    named = list(named)
    known = {s: r for s, r in releases.items() if r.get("before")}
    listed = "; ".join(f"{s}: {r['current']} -> {r['previous']}" for s, r in sorted(known.items()) if _ready(r))
    offer = f"Releases to return to: {listed or 'none'}"
    if not named:
        return {"problem": f"Name what to roll back with --tags SERVICE; nothing was touched. {offer}", "services": []}
    problems = [f"{s} has no release before its current one" for s in named if s not in known]
    problems += [
        f"{s} cannot return to {known[s]['previous']}: {'; '.join(known[s]['before']['missing']) or 'it is current already'}"
        for s in named
        if s in known and not _ready(known[s])
    ]
    if problems:
        return {"problem": f"{'. '.join(problems)}. Nothing was touched. {offer}", "services": []}
    found = []
    for name in named:
        entry = known[name]
        reasons = compose.reasons(entry["facts"], entry["before"]["facts"])
        left = compose.reasons(entry["before"]["facts"], declared[name].facts) if name in declared else []
        differs = ", ".join(
            f"{r['name']}: {r['current'] or 'none'} runs, {r['desired'] or 'none'} is declared" for r in left
        )
        keep = (
            f"{name}: the next site.yml would deploy the declaration again ({differs}). To keep release {entry['previous']},"
            f" declare in llm_services.{name} what runs"
            if left
            else f"{name}: the declaration is that of release {entry['previous']}; site.yml keeps it"
        )
        kept = entry["before"]["serving"]
        plan = {**kept, "ask": ask(kept), "side_by_side": name in fits}
        found.append({"name": name, "reasons": reasons, "plan": plan, "keep": keep})
    return {"problem": "", "services": found}


def _ready(entry: Mapping[str, Any]) -> bool:
    return not entry["before"]["missing"] and entry["previous"] != entry["current"]
