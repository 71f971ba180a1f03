"""How a release takes the place of another: what is in the way, when an engine is idle, when memory is free again.

Pure functions of what the plan, the host and the engines say; roles and modules act on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict, get_args

from ansible.module_utils.llm.declare.facts import (
    NO_RELEASES,
    Ask,
    Content,
    Facts,
    Reason,
    ReleaseFacts,
    Releases,
    Route,
    Serving,
    Way,
)
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Service
from ansible.module_utils.llm.declare.variables import SMOKE, WARMUP
from ansible.module_utils.llm.plan import compose
from ansible.module_utils.llm.plan.types import ContainerRef, Return, ReturnPlan, RollbackPlan, ServicePlan

_Bulky = Literal[
    "facts",
    "files",
    "fit",
    "findings",
    "kv_tokens",
    "verdict",
    "boot_records",
    "side_by_side",
    "side_by_side_why",
]
BULKY: tuple[_Bulky, ...] = get_args(_Bulky)  # typed words, so that mypy knows that each is a key of a plan
"""Keys of a service's plan that a return does not need."""
ASKED: Mapping[Literal["smoke", "warmup"], tuple[str, ...]] = {
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
    routes: Iterable[Route],
    containers: Mapping[str, str],
    returning: Iterable[Serving] = (),
    back_in: float = 0,
) -> list[Route]:
    """The gateway's routes with other containers behind some of them; with "" new requests wait, then get 503 (Retry-After).

    returning: plans of releases that are to serve again, though the routes may give their port to another service; or, with
    `stopped`, of those that are not to, until somebody deploys them: requests get 503 at once. back_in:
    seconds after which what is closed is expected back; 0 where nobody knows.
    """
    kept: dict[int, Route] = {}
    for route in routes:
        now: Route = {**route}
        if route["service"] in containers:  # it is being deployed, whether or not it was stopped before
            now["container"] = containers[route["service"]]
            now.pop("stopped", None)
            if back_in and not now["container"]:
                now["returns_in"] = int(back_in)
        kept[route["port"]] = now
    for plan in returning:
        way: Way = plan.get("route") or {"port": plan["port"]}
        back: Route = {"service": plan["name"], "container": plan["container"], **way}
        if plan.get("stopped"):
            back["stopped"] = True
        kept[plan["port"]] = back
    return sorted(kept.values(), key=lambda r: r["port"])


def closed(
    services: Iterable[str],
    plans: Mapping[str, Serving],
    releases: Mapping[str, Releases],
    routes: Iterable[Route],
) -> list[Serving]:
    """Plans of services with their routes closed, for `routes`: to be let finish, while new requests get 503 at once.

    One that nobody declares any more has the gateway of its release, for as long as the gateway leads to no other service (routes).
    """
    services = list(services)
    taken = {r["port"] for r in routes}
    undeclared = {s: releases.get(s, NO_RELEASES)["serving"] for s in services if s not in plans}
    found = [plans[s] for s in services if s in plans]
    found += [p for p in undeclared.values() if p and p["port"] not in taken]
    return [{**p, "container": "", "stopped": True} for p in found]


def ask(entry: Serving) -> Ask:
    """What a service is asked: the option `ask` of the modules llm_smoke and llm_warmup.

    entry: served_model_name, model, args, accelerator, smoke (see judge.known) and warmup of the service; or `ask`, as it was kept
    with a release. Keys that the modules don't take are left out: another version of this project kept them, and what returns
    must not fail at them.
    """
    name = entry.get("served_model_name", "")
    given: Ask = entry.get("ask") or {
        "smoke": {
            "model": name,
            "args": entry.get("args", {}),
            "accelerator": entry.get("accelerator", ""),
            "catalog_model": entry.get("model", ""),
            **entry.get("smoke", {}),
        },
        "warmup": {"model": name, **entry.get("warmup", {})},
    }
    return {"smoke": _taken(given["smoke"], ASKED["smoke"]), "warmup": _taken(given["warmup"], ASKED["warmup"])}


def _taken(given: Content, keys: Iterable[str]) -> dict[str, object]:
    return {key: given[key] for key in keys if key in given}


def serving(plan: ServicePlan) -> Serving:
    """What is kept with a release so that it can be started and proven again when the declaration says something else."""
    kept: ServicePlan = {**plan}
    for key in BULKY:
        kept.pop(key, None)
    return kept


def predecessor(plan: ServicePlan, found: Releases) -> Serving:
    """Plan of the release that is current on the host; {} when there is none.

    found: entry of the service in `releases` of module llm_host_facts, {} where it has none. A release of an older version of this
    project kept no plan of its own: what it was asked then is not known, so it is asked what is asked now.
    """
    current = found.get("current")
    if not current:
        return {}
    if kept := found["serving"]:
        return {**kept, "ask": ask(kept)}
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
    entries: Iterable[ContainerRef],
    plans: Mapping[str, ServicePlan],
    releases: Mapping[str, Releases],
) -> list[Serving]:
    """Plans of the releases that have to stop for another service. entries: of the plan's work."""
    found = [(e, predecessor(plans[e["service"]], releases.get(e["service"], NO_RELEASES))) for e in entries]
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
    returning: list[Serving]


def replacement(
    plan: ReturnPlan,
    previous: Serving,
    containers: Iterable[str],
    displaced: Iterable[Serving],
) -> Replacement:
    """How the release of a plan takes the place of what runs.

    previous: see predecessor. containers: of this service, on the host. displaced: see displaced.
    """
    containers = list(containers)
    leaving: list[Serving] = [{**d} for d in displaced]
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
        "returning": leaving or ([{**previous}] if previous and not again else []),
    }


def expected_back(plan: ServicePlan, drain: float) -> float:
    """Seconds from closing its route until a service should answer again, by the slowest boot it has had here; 0: never booted."""
    boots = [r["expected"] for r in (plan.get("boot_records") or {}).values()]
    return drain + max(boots) if boots else 0


def needs_restart(reasons: Iterable[Reason]) -> bool:
    """Whether a deployment has to touch the engine: an edited compose.yml alone is written anew, and what runs is right."""
    return any(not r.get("file_only") for r in reasons)


def stale(facts: Facts, services: Iterable[str], deploying: Iterable[str]) -> list[ContainerRef]:
    """Containers of releases that are not current, left by a run that was cut short.

    Those of services that are about to be deployed are that deployment's to remove.
    """
    others = {*services} - {*deploying}
    found: list[ContainerRef] = []
    for container in facts["containers"]:
        current = facts["releases"].get(container["service"], NO_RELEASES)["current"]
        if container["service"] in others and current and container["release"] != current:
            found.append({"service": container["service"], "container": container["name"]})
    return found


def rollback(
    releases: Mapping[str, Releases],
    named: Iterable[str],
    declared: Mapping[str, compose.Release],
    fits: Iterable[str],
) -> RollbackPlan:
    """What playbooks/rollback.yml does.

    releases: of module llm_host_facts. named: services of --tags. declared: releases that the declaration makes. fits: services
    of which two releases may run side by side.
    """
    named = list(named)
    known = {s: before for s, r in releases.items() if (before := r["before"])}
    ready = {s: returns for s in known if (returns := _returns(releases[s]))}
    listed = "; ".join(f"{s}: {releases[s]['current']} -> {releases[s]['previous']}" for s in sorted(ready))
    offer = f"Releases to return to: {listed or 'none'}"
    if not named:
        return {"problem": f"Name what to roll back with --tags SERVICE; nothing was touched. {offer}", "services": []}
    problems = [f"{s} has no release before its current one" for s in named if s not in known]
    problems += [
        f"{s} cannot return to {releases[s]['previous']}: {'; '.join(known[s]['missing']) or 'it is current already'}"
        for s in named
        if s in known and s not in ready
    ]
    if problems:
        return {"problem": f"{'. '.join(problems)}. Nothing was touched. {offer}", "services": []}
    found: list[Return] = []
    for name in named:
        entry, (kept, facts) = releases[name], ready[name]
        reasons = compose.reasons(entry["facts"], facts)
        left = compose.reasons(facts, declared[name].facts) if name in declared else []
        differs = ", ".join(
            f"{r['name']}: {r['current'] or 'none'} runs, {r['desired'] or 'none'} is declared" for r in left
        )
        keep = (
            f"{name}: the next site.yml would deploy the declaration again ({differs}). To keep release {entry['previous']},"
            f" declare in llm_services.{name} what runs"
            if left
            else f"{name}: the declaration is that of release {entry['previous']}; site.yml keeps it"
        )
        plan: ReturnPlan = {**kept, "ask": ask(kept), "side_by_side": name in fits}
        found.append({"name": name, "reasons": reasons, "plan": plan, "keep": keep})
    return {"problem": "", "services": found}


def _returns(entry: Releases) -> tuple[Serving, ReleaseFacts] | None:
    """Plan and facts of the release before, None where it cannot return: it lacks something, or is the current one."""
    before = entry["before"]
    if not before or before["missing"] or entry["previous"] == entry["current"]:
        return None
    serving, facts = before["serving"], before["facts"]
    return (serving, facts) if serving and facts else None
