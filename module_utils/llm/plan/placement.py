"""Placement: which services of a host run at once, what they share, and what they clash over. Pure functions.

Services that want one port, host name, name for two models, writable folder or the same memory of a GPU exclude each other.
`place` says who runs: services named by `llm_switch` first, then active and forced ones, then fallbacks as far as nothing takes
their place. What runs on the host is read from the facts of module llm_host_facts: an engine's release says what it reserved.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import NO_RELEASES, Container, Facts, Releases
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared, Service
from ansible.module_utils.llm.declare.values import size_bytes
from ansible.module_utils.llm.fit import architecture
from ansible.module_utils.llm.gpu.nvidia import match
from ansible.module_utils.llm.plan.types import ContainerRef, StatedContainer

COMMAND = "ansible-playbook site.yml"
# Driver, CUDA context and communication of an engine, outside of what it reserves: 0.52 to 1.47 GiB measured (docs/fit.md).
OUTSIDE_GIB = 1.5
Gpus = Mapping[int | str, float]  # GPU (its index, or its UUID where no index is declared) -> share of its memory


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a service takes of its host. writes: sources of its own writable mounts. answers_as: what clients write as `model`."""

    service: str
    port: int
    hostname: str
    model: str
    answers_as: str
    shares: Gpus
    writes: tuple[str, ...]


class Clash(NamedTuple):
    """Why two services cannot run at once. part: the key of a service that it is about."""

    part: str
    text: str


class Place(NamedTuple):
    """Whose place a service takes, or who takes its place, and why."""

    service: str
    why: str


@dataclasses.dataclass(frozen=True)
class Placement:
    """Who runs. displaced: on standby because of llm_switch; standing_by: fallbacks that an active service keeps back."""

    running: tuple[str, ...]
    displaced: Mapping[str, Place]
    standing_by: Mapping[str, Place]


def gpu_name(declared: Declared, gpu: int | str) -> int | str:
    """One name for a GPU, whether it was written as index or UUID."""
    return next((g.index for g in declared.gpus if gpu == g.uuid), gpu)


def share(service: Service) -> float:
    """Share of each of its GPUs' memory that a service reserves; vLLM takes this much whatever the model needs."""
    return float(service.flag("gpu-memory-utilization", architecture.DEFAULT_UTILIZATION))


def claim(declared: Declared, service: Service) -> Claim:
    """What a declared service takes."""
    shares = {gpu_name(declared, g): share(service) for g in service.gpus}
    return Claim(
        service.name,
        service.port,
        service.hostname,
        service.model,
        service.served_model_name,
        shares,
        writes(service.volumes),
    )


def writes(volumes: Iterable[str]) -> tuple[str, ...]:
    """Sources that mounts in Compose's short form (`source:target[:options]`) may write to."""
    found = []
    for volume in volumes:
        source, _, rest = volume.partition(":")
        if rest and "ro" not in rest.partition(":")[2].split(","):
            found.append(posixpath.normpath(source) if source.startswith("/") else source)
    return tuple(found)


def beyond(shares: Iterable[float]) -> bool:
    """Whether shares are more than a GPU has; sums of decimal fractions miss by a little."""
    return round(sum(shares), 6) > 1.0


def clashes(one: Claim, other: Claim) -> list[Clash]:
    """Why two services cannot run at once; empty when they can."""
    found = []
    if one.port == other.port:
        found.append(Clash("port", f"both want port {one.port}"))
    for gpu, own in one.shares.items():
        if gpu in other.shares and beyond((own, other.shares[gpu])):
            total = own + other.shares[gpu]
            shares = f"{own:g} + {other.shares[gpu]:g} = {total:.2f}"
            found.append(Clash("gpus", f"together they reserve more than GPU {gpu} has ({shares})"))
    if one.answers_as == other.answers_as and one.model != other.model:
        models = f"model of `{one.service}` is `{one.model}`, that of `{other.service}` is `{other.model}`"
        text = f"both have served_model_name `{one.answers_as}`, by which a request picks its model, but {models}"
        found.append(Clash("served_model_name", text))
    # Services of one model share a host name, as replicas.
    replicas = one.model == other.model and one.answers_as == other.answers_as
    if one.hostname and one.hostname == other.hostname and not replicas:
        found.append(Clash("hostname", f"both are to answer as `{one.hostname}`"))
    for path, theirs in shared(one.writes, other.writes):
        where = f"`{path}`" if path == theirs else f"`{path}` and `{theirs}`"
        found.append(Clash("volumes", f"both may write to {where}"))
    return found


def shared(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of folders that are the same, or one inside the other."""
    pairs = [(one, other) for one in ours for other in theirs]
    return [
        (a, b) for a, b in pairs if a == b or a.startswith(f"{b.rstrip('/')}/") or b.startswith(f"{a.rstrip('/')}/")
    ]


def _crowd(one: Claim, others: Sequence[Claim]) -> str:
    """A GPU that holds the others, and not one more; "" when there is none."""
    for gpu, own in one.shares.items():
        sharers = [o for o in others if gpu in o.shares]
        if sharers and not beyond(o.shares[gpu] for o in sharers) and beyond((own, *(o.shares[gpu] for o in sharers))):
            names = ", ".join(f"{o.service} {o.shares[gpu]:g}" for o in sharers)
            return f"GPU {gpu} has no room for its {own:g} beside {names}"
    return ""


def _kept_out(one: Claim, others: Sequence[Claim]) -> Place | None:
    """Who of the others leaves no room for a service."""
    for other in others:
        if found := clashes(one, other):
            return Place(other.service, found[0].text)
    why = _crowd(one, others)
    return Place(others[-1].service, why) if why else None


def place(declared: Declared) -> Placement:
    """Which of the host's services run, and which are on standby for which."""
    settings = declared.settings
    listed = {s: declared.services[s] for s in declared.host_services}
    claims = {s: claim(declared, service) for s, service in listed.items()}

    def allowed(service: Service) -> bool:
        return service.status in ("active", "fallback") or service.name in settings.force

    switched = [s for s in settings.switch if s in listed and allowed(listed[s])]
    first = [claims[s] for s in switched]
    active = [
        s for s, service in listed.items() if s not in switched and (service.status == "active" or s in settings.force)
    ]
    displaced: dict[str, Place] = {}
    wanted: list[Claim] = []
    for name in active:
        # Those that would not fit without the switch either are no matter of it, and are refused.
        why = next(filter(None, (_kept_out(claims[name], [f]) for f in first)), None)
        if why is None and first and (crowd := _crowd(claims[name], [*wanted, *first])):
            why = None if _crowd(claims[name], wanted) else Place(first[-1].service, crowd)
        if why:
            displaced[name] = why
        else:
            wanted.append(claims[name])
    standing_by: dict[str, Place] = {}
    # A fallback waits for active services, also for those that a switch displaces: a switch starts nothing but its own.
    before = [claims[s] for s, service in listed.items() if service.status == "active" and s in {*displaced, *switched}]
    for name, service in listed.items():
        if service.status != "fallback" or name in switched or name in settings.force:
            continue
        if found := _kept_out(claims[name], [*before, *wanted]):
            standing_by[name] = found
        elif found := _kept_out(claims[name], [*wanted, *first]):
            displaced[name] = found
        else:
            wanted.append(claims[name])
    # One that is kept stopped keeps its place, and does not wait for another.
    present = [s for s, service in listed.items() if service.state == "present"]
    names = {*switched, *(c.service for c in wanted)}
    return Placement(
        tuple(s for s in present if s in names),
        {s: displaced[s] for s in present if s in displaced},
        {s: standing_by[s] for s in present if s in standing_by},
    )


def deployed(declared: Declared) -> tuple[str, ...]:
    """Services of the host that are to run, in their order there."""
    return place(declared).running


# ---------------------------------------------------------------------------------------------------------------------
# Findings.


def findings(declared: Declared, command: str = COMMAND) -> dict[str, list[Finding]]:
    """Findings by service: clashes, who is on standby for whom, impossible wishes of llm_switch. command: a run of this host."""
    found: dict[str, list[Finding]] = {s: [] for s in declared.host_services}
    placed = place(declared)
    claims = {s: claim(declared, declared.services[s]) for s in placed.running}
    for name, (other, why) in placed.displaced.items():
        message = f"is on standby: llm_switch gives its place to `{other}` ({why})"
        remedy = f"Go back with a run that does not name `{other}` in llm_switch"
        found[name].append(Finding("displaced", "info", f"llm_services.{name}.status", message, remedy))
    for name, (other, why) in placed.standing_by.items():
        reason = declared.services[name].reason
        message = f"is on standby for `{other}`: {why}{'. ' + reason if reason else ''}"
        remedy = f"To let it take that place: {_switch(declared, name, command)}"
        found[name].append(Finding("standby", "info", f"llm_services.{name}.status", message, remedy))
    for name in declared.settings.switch:
        problem = _switch_problem(declared, name)
        if problem:
            found.setdefault(name if name in found else "", []).append(problem)
        elif name in placed.running:
            whose = [s for s, by in placed.displaced.items() if by.service == name]
            message = f"runs because llm_switch names it, in place of {_names(whose) if whose else 'no other'}"
            remedy = "Nothing to do; to keep it, set llm_switch in the host's variables"
            found[name].append(Finding("switched", "info", "llm_switch", message, remedy))
    for name in placed.running:
        found[name] += _clash_findings(declared, claims[name], claims, command)
    return found


def _names(services: Iterable[str]) -> str:
    return ", ".join(f"`{s}`" for s in services)


def _switch(declared: Declared, service: str, command: str) -> str:
    """The command that lets a service take the place of those it clashes with; other switches stay."""
    own = claim(declared, declared.services[service])
    others = [s for s in declared.settings.switch if s != service]
    kept = [s for s in others if not clashes(own, claim(declared, declared.services[s]))]
    forced = f" -e llm_force={','.join(declared.settings.force)}" if declared.settings.force else ""
    return f"{command} -e llm_switch={','.join([*kept, service])}{forced}"


def _switch_problem(declared: Declared, name: str) -> Finding | None:
    service = declared.services[name]
    if name not in declared.host_services:
        message = f"names `{name}`, which this host does not list"
        remedy = "Add it to llm_host_services, or limit the run to the host that has it (--limit)"
        return Finding("switch-unlisted", "error", "llm_switch", message, remedy)
    if service.state != "present":
        message = f"names `{name}`, whose state is {service.state}"
        remedy = "Set its state to present, or leave it out of llm_switch"
        return Finding("switch-stopped", "error", "llm_switch", message, remedy)
    return None


def _clash_findings(
    declared: Declared, one: Claim, claims: Mapping[str, Claim], command: str = COMMAND
) -> list[Finding]:
    """What a service that is to run clashes over with others that are to run."""
    switch = declared.settings.switch
    found = []
    for other in claims.values():
        if other.service == one.service:
            continue
        for clash in clashes(one, other):
            if one.service in switch and other.service in switch:
                remedy = f"llm_switch names both: name `{one.service}` or `{other.service}`"
            else:
                remedy = (
                    f"Say which goes first, {_switch(declared, one.service, command)} or "
                    f"{_switch(declared, other.service, command)}, or {_WAYS[clash.part]}"
                )
            key = f"llm_services.{one.service}.{clash.part}"
            message = f"clashes with `{other.service}`: {clash.text}"
            found.append(Finding(f"clash-{clash.part.replace('_', '-')}", "error", key, message, remedy))
    # Three services can fit pairwise and still not together.
    if not found:
        for gpu in one.shares:
            sharers = [c for c in claims.values() if gpu in c.shares]
            # What one asks for alone beyond a whole GPU is for the rules to say: no other can give way to it.
            if len(sharers) > 1 and beyond(c.shares[gpu] for c in sharers):
                names = ", ".join(f"{c.service} {c.shares[gpu]:g}" for c in sharers)
                total = sum(c.shares[gpu] for c in sharers)
                message = f"GPU {gpu} is reserved beyond its memory: {names}, together {total:.2f}"
                remedy = (
                    "Lower gpu-memory-utilization of one of them, or let one take another's place: "
                    f"{_switch(declared, one.service, command)}"
                )
                key = f"llm_services.{one.service}.gpus"
                found.append(Finding("gpu-overbooked", "error", key, message, remedy))
    return found


_WAYS = {
    "port": "give one another port, make it a fallback, or take it out of llm_host_services",
    "gpus": "give one other GPUs or less of them (gpu-memory-utilization), or make it a fallback",
    "served_model_name": "give one another served_model_name, or both the same model",
    "hostname": "give one another hostname, or make it a fallback",
    "volumes": "mount it read-only (`:ro`) in one of them, or give each its own folder",
}


# ---------------------------------------------------------------------------------------------------------------------
# What runs on the host.


@dataclasses.dataclass(frozen=True)
class Engine:
    """A container that runs. shares: None where its release does not say; memory: its limit in bytes, None without one."""

    service: str
    container: str
    shares: Gpus | None
    memory: int | None


def engines(declared: Declared, facts: Facts) -> list[Engine]:
    """Engines that run, with what they reserved."""
    return [
        _engine(declared, facts["releases"].get(c["service"], NO_RELEASES), c)
        for c in facts["containers"]
        if c["state"] == "running"
    ]


def _engine(declared: Declared, release: Releases, container: Container) -> Engine:
    found = Engine(container["service"], container["name"], None, None)
    if not release["facts"] or release["current"] != container["release"]:
        return found
    # Of a file that somebody may have edited.
    settings: Any = release["facts"]["container"]
    argv = release["facts"]["command"]
    try:
        memory = size_bytes(settings["mem_limit"]) if "mem_limit" in settings else None
        reservations = settings.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        ids = [str(i).rpartition("=")[2] for device in reservations for i in device["device_ids"]]
        part = architecture.DEFAULT_UTILIZATION
        if "--gpu-memory-utilization" in argv:
            part = float(argv[argv.index("--gpu-memory-utilization") + 1])
        gpus = {gpu_name(declared, int(i) if i.isdigit() else i): part for i in ids}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return found  # a file that somebody edited says nothing
    return dataclasses.replace(found, shares=gpus, memory=memory)


def displaces(declared: Declared, facts: Facts, service: str) -> list[ContainerRef]:
    """Containers that run and must be stopped before `service` starts.

    They are engines of the host's other services that are on standby (or are not to run) and clash with it, and any that still
    reserves, by its release, what `service` wants of a GPU.
    """
    own = claim(declared, declared.services[service])
    wanted = set(deployed(declared))
    found: list[ContainerRef] = []
    for engine in engines(declared, facts):
        other = declared.services.get(engine.service)
        if engine.service == service or other is None or engine.service not in declared.host_services:
            continue
        theirs = claim(declared, other)
        if engine.shares is not None:
            theirs = dataclasses.replace(theirs, shares=engine.shares)
        parts = {c.part for c in clashes(own, theirs)}
        if "gpus" in parts or (parts and engine.service not in wanted):
            found.append({"service": engine.service, "container": engine.container})
    return found


def unwanted(declared: Declared, facts: Facts) -> list[ContainerRef]:
    """Engines that run though their service is on standby. An earlier run switched to them."""
    placed = place(declared)
    waiting = {*placed.displaced, *placed.standing_by}
    return [
        {"service": c["service"], "container": c["name"]}
        for c in facts["containers"]
        if c["service"] in waiting and c["state"] == "running"
    ]


class SideBySide(NamedTuple):
    """Whether a new release may start while the old one runs, and why."""

    fits: bool
    why: str


def side_by_side(declared: Declared, facts: Facts, name: str) -> SideBySide:
    """Whether a new release of a service fits beside the one that runs. What is unknown counts as no.

    GPUs: the reserved shares of all that runs and of the new release are at most 1, and the memory measured as free is
    enough for what it asks for. CPU: the memory limits of all that runs and its own fit into the host, and its own into
    what is free.
    """
    service = declared.services[name]
    running = engines(declared, facts)
    if not any(e.service == name for e in running):
        return SideBySide(False, "nothing of it runs")
    if others := displaces(declared, facts, name):
        return SideBySide(False, f"{_names(o['service'] for o in others)} has to stop first")
    own = claim(declared, service)
    if own.writes:
        return SideBySide(False, f"both releases would write to `{own.writes[0]}`")
    return _on_gpus(declared, facts, own, running) if own.shares else _on_cpu(facts, service, running)


def _on_gpus(declared: Declared, facts: Facts, own: Claim, running: Sequence[Engine]) -> SideBySide:
    seen = facts["gpu"]
    unknown = [e.container for e in running if e.shares is None]
    if unknown:
        return SideBySide(False, f"what {_names(unknown)} reserves is not known")
    words = []
    for gpu, part in own.shares.items():
        total = part + sum((e.shares or {}).get(gpu, 0.0) for e in running)
        if beyond([total]):
            return SideBySide(False, f"GPU {gpu} would be reserved to {total:.2f} of its memory")
        entry = next((g for g in declared.gpus if g.index == gpu), None)
        one = match(entry, seen["gpus"] if seen else ()) if entry else None
        if one is None or not one["memory"] or one["free"] is None:
            return SideBySide(False, f"how much memory of GPU {gpu} is free is not known")
        needed, free = part * one["memory"] / GIB + OUTSIDE_GIB, one["free"] / GIB
        if free < needed:
            return SideBySide(False, f"GPU {gpu} has {free:.1f} GiB free, a second engine needs {needed:.1f}")
        words.append(f"GPU {gpu} reserved to {total:.2f}, {free:.1f} GiB free")
    return SideBySide(True, "; ".join(words))


def _on_cpu(facts: Facts, service: Service, running: Sequence[Engine]) -> SideBySide:
    memory = facts["memory"]
    if "memory" not in service.limits:
        return SideBySide(False, "it has no limits.memory")
    unlimited = [e.container for e in running if not e.memory]
    if unlimited:
        return SideBySide(False, f"{_names(unlimited)} has no limit of memory")
    has, available = memory["total"], memory["available"]
    if not has or available is None:
        return SideBySide(False, "how much memory the host has is not known")
    own = size_bytes(service.limits["memory"])
    total = own + sum(e.memory or 0 for e in running)
    if total > has:
        return SideBySide(
            False, f"the limits of all engines would be {total / GIB:.1f} GiB, the host has {has / GIB:.1f}"
        )
    if own > available:
        return SideBySide(False, f"the host has {available / GIB:.1f} GiB free, its limit is {own / GIB:.1f}")
    return SideBySide(True, f"{available / GIB:.1f} GiB free on the host, its limit is {own / GIB:.1f}")


def orphans(declared: Declared, facts: Facts) -> list[StatedContainer]:
    """Engine containers that the declaration does not want. Removed only on request.

    Those of services on standby are kept, for a switch.
    """
    placed = place(declared)
    wanted = {*placed.running, *placed.displaced, *placed.standing_by}
    wanted |= {s for s in declared.host_services if declared.services[s].state != "present"}
    return [
        {"service": c["service"], "container": c["name"], "state": c["state"]}
        for c in facts["containers"]
        if c["service"] not in wanted
    ]
