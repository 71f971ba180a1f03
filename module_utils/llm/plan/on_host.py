"""What only the host can tell of a declaration: Docker, disk, ports, GPUs, foreign containers, what is missing offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import NO_MODEL, Docker, Facts, FoundGpu, GpuProcess
from ansible.module_utils.llm.declare.findings import Finding, Findings
from ansible.module_utils.llm.declare.objects import Declared, Image, Model, Service
from ansible.module_utils.llm.gpu.nvidia import differences, label, match, runtime_problem
from ansible.module_utils.llm.plan import compose, needs, placement
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.placement import deployed
from ansible.module_utils.llm.plan.selection import STAGES

# States of a container that somebody is served by, or soon again.
RUNS = ("running", "restarting", "paused")
_PROGRAMS: tuple[Literal["gateway"], Literal["supervisor"]] = ("gateway", "supervisor")
PRUNE = "take it away with -e llm_prune=true, which also removes engines, images and models that nothing needs"


def look_at_host(
    declared: Declared, facts: Facts, services: Iterable[str], stages: Iterable[str] = STAGES, verb: bool = False
) -> Findings:
    """Findings that need the host: Docker, disk, ports, GPUs, model files, sources while offline.

    stages: those of this run; what the stage `host` will put right, or refuse with more to say, is only warned of. verb: the
    run brings nothing up; it shows, stops or asks what runs.
    """
    services = tuple(services)
    found: Findings = {"": _docker_findings(facts["docker"], starts="host" in tuple(stages) and not verb)}
    if found[""]:
        return found  # without Docker's answer, ports of our own engines look like somebody else's
    ports = {declared.services[s].port: (s, f"llm_services.{s}.port") for s in services}
    ports |= {port: ("", key) for port, key in gateway_plan.ports(declared).items()} if services else {}
    for port, (service, key) in ports.items():
        holder = facts["listening"].get(str(port))
        published_by = facts["published"].get(str(port))
        if published_by not in (None, names.GATEWAY):
            who = f"container `{published_by}`"
        elif holder and published_by is None:
            who = f"process {holder['process']} (pid {holder['pid']})" if holder.get("pid") else "another process"
        else:
            continue
        message = f"port {port} is taken by {who}"
        remedy = "Stop it, or declare another port" + ("" if service else ", or 0 for none")
        found.setdefault(service, []).append(Finding("port-taken", "error", key, message, remedy))
    gateway = facts["gateway"]
    found[""] += gateway_plan.host_findings(declared, gateway["certificate"], gateway["now"])
    found[""] += gateway_plan.key_findings(declared, gateway["clients"])
    # An engine that is only stopped may have them all; it is started and asked again.
    asked = facts["docker"]["running"] or not facts["docker"]["installed"]
    models = needs.needed_models(declared, services)
    tools = quantize_plan.images(declared, models, facts)
    wanted = [declared.images[i] for i in (*needs.needed_images(declared, services), *tools)] if asked else []
    missing_images = needs.missing(declared, facts, [i for i in wanted if not needs.image_id(i, facts)])
    for service, finding in _held_findings(declared, facts, services):
        found.setdefault(service, []).append(finding)
    for service, finding in _found_gpu_findings(declared, facts, services, "host" in tuple(stages)):
        found.setdefault(service, []).append(finding)
    found[""] += _network_findings(facts["networks"])
    missing_models = []
    for name in dict.fromkeys([*quantize_plan.sources(declared, models, facts), *models]):
        model, state = declared.models[name], facts["models"].get(name, NO_MODEL)
        folder = compose.model_dir(declared.settings, model)
        if state["problem"]:
            message = f"the files in {folder} are damaged: {state['problem']}"
            remedy = "`playbooks/verify_models.yml -e llm_repair=true` fetches what is damaged"
            found[""].append(Finding("model-broken", "error", f"llm_models.{name}", message, remedy))
        elif not state["present"]:
            missing_models.append(model)
    found[""] += quantize_plan.findings(declared, facts, models)
    found[""] += _disk_findings(facts, missing_images, missing_models)
    if declared.settings.offline:
        found[""] += _offline_findings(declared, facts, missing_images, missing_models)
    return found


def loss_findings(declared: Declared, facts: Facts, stages: Iterable[str]) -> list[Finding]:
    """What a run of site.yml would take from a host that serves although nobody said so: all of it, or its supervisor.

    `state: stopped` and `state: absent` say it of a service, `llm_prune` of everything. stages: those of the run.
    """
    stages = {*stages}
    gateway, supervisor = (facts[part]["state"] in RUNS for part in _PROGRAMS)
    engines = sorted({c["service"] for c in facts["containers"] if c["state"] in RUNS})
    if declared.settings.prune:
        return []
    if deployed(declared):
        if declared.settings.supervisor or not supervisor or "observe" not in stages:
            return []
        message = "is false, and the supervisor runs: nothing would bring back an engine that hangs"
        remedy = f"Leave it true, or {PRUNE}"
        return [Finding("supervisor-lost", "error", "llm_supervisor", message, remedy)]
    named = {s for s in declared.host_services if declared.services[s].state != "present"}
    said = named and named.issuperset(engines)
    serves = [f"`{s}`" for s in engines] + ["the gateway"] * gateway + ["the supervisor"] * supervisor
    if said or not serves or not stages & {"services", "gateway", "observe"}:
        return []
    message = f"has nothing that is to run, and this host serves: {', '.join(serves)} would be taken from it"
    remedy = f"List what it is to serve, give `state: stopped` to a service that is to pause, or {PRUNE}"
    return [Finding("services-lost", "error", "llm_host_services", message, remedy)]


def foreign_findings(
    declared: Declared, facts: Facts, services: Iterable[str], rendered: Mapping[str, compose.Release]
) -> Findings:
    """Containers of others that have the name of one that is to be made, or write where a service writes."""
    found: Findings = {"": []}
    wanted = {rendered[s].container: s for s in services}
    claims = {s: placement.claim(declared, declared.services[s]) for s in services}
    for other in facts["foreign"]:
        who = f"container `{other['name']}` ({other['image']}, {other['state']}), which is not of this project,"
        alone = {
            names.GATEWAY: "the gateway",
            names.SUPERVISOR: "the supervisor",
            names.ACME: "the ACME client",
        }.get(other["name"], "")
        service = wanted.get(other["name"], "")
        if alone or service:
            key = alone or f"llm_services.{service}"
            message = f"{who} has the name that {alone or f'this release of `{service}`'} gets"
            remedy = f"Rename it (`docker rename {other['name']} NAME`), or remove it"
            found.setdefault(service, []).append(Finding("name-taken", "error", key, message, remedy))
        for name, claim in claims.items():
            for path, theirs in placement.shared(claim.writes, other["writes"]):
                where = f"`{path}`" if path == theirs else f"`{theirs}`, and this service to `{path}`"
                message, remedy = (
                    f"{who} may write to {where}",
                    "Stop it, mount it read-only, or give each its own folder",
                )
                key = f"llm_services.{name}.volumes"
                found.setdefault(name, []).append(Finding("volume-shared", "warn", key, message, remedy))
    return found


def _docker_findings(docker: Docker, starts: bool) -> list[Finding]:
    """An engine that DOCKER_HOST names is somebody's choice: it is neither installed nor started from here.

    starts: whether this run starts an engine that is down. Containers run on without it, so that no other run may take it for
    a host where nothing runs.
    """
    if docker["running"]:
        return []
    why = str(docker["error"]).partition(". ")[0]  # what follows tells how to install one
    if not docker["named"]:
        if starts or not docker["installed"]:
            return []
        message = f"does not answer, and what runs can be neither seen nor stopped: {why}"
        return [Finding("docker-down", "error", "Docker", message, "Start it; `site.yml --tags host` does that")]
    message = f"names {docker['named']}, which is of no use: {why}"
    return [Finding("docker-unreachable", "error", "DOCKER_HOST", message, "Unset DOCKER_HOST, or correct it")]


def _held_findings(declared: Declared, facts: Facts, services: Iterable[str]) -> list[tuple[str, Finding]]:
    """Engines that still run although the declaration no longer wants them, and hold what a service needs."""
    if declared.settings.prune:
        return []
    running = {o["service"] for o in placement.orphans(declared, facts) if o["state"] == "running"} & set(
        declared.services
    )
    claims = {s: placement.claim(declared, declared.services[s]) for s in (*services, *running)}
    found = []
    for name in services:
        for other in sorted(running):
            for part, why in placement.clashes(claims[name], claims[other]):
                message = f"`{other}` still runs, and {why}"
                remedy = (
                    f"Stop it with playbooks/stop.yml --tags {other}, or let this run remove it with -e llm_prune=true"
                )
                key = f"llm_services.{name}.{part}"
                found.append((name, Finding(f"held-{part}", "error", key, message, remedy)))
    return found


def _found_gpu_findings(
    declared: Declared, facts: Facts, services: Iterable[str], repaired: bool
) -> list[tuple[str, Finding]]:
    """GPUs as found beside GPUs as declared: (service, or "" for the host, finding)."""
    seen = facts["gpu"]
    users = {s: declared.services[s] for s in services if declared.services[s].gpus}
    if seen is None or not (users or declared.gpus):
        return []
    wrong = seen["trouble"]
    if wrong:
        absent = wrong["id"] == "no-hardware"
        severity = "error" if users and (absent or not repaired) else "warn"
        key = "llm_host_gpus" if absent else "NVIDIA driver"
        finding = Finding(f"gpu-{wrong['id']}", severity, key, wrong["message"], wrong["remedy"])
        return [(s, finding) for s in users] or [("", finding)]
    found: list[tuple[str, Finding]] = []
    problem = runtime_problem(facts["docker"], declared.settings.gpu_runtime, wsl=seen["wsl"])
    if problem and users:
        found.append(("", Finding("gpu-runtime", "error", "llm_gpu_runtime", *problem)))
    for differs in differences(declared.gpus, seen["gpus"]):
        entry = declared.gpus[differs["position"]]
        own = [s for s, service in users.items() if {entry.index, entry.uuid} & set(service.gpus)]
        # What no service of this run needs is reported, and stops nothing.
        severity = differs["severity"] if own or differs["severity"] != "error" else "warn"
        key = f"llm_host_gpus.{differs['position']}.{differs['part']}"
        finding = Finding(differs["id"], severity, key, differs["message"], differs["remedy"])
        found += [(s, finding) for s in own] or [("", finding)]
    matched = [match(entry, seen["gpus"]) for entry in declared.gpus]
    for one in seen["gpus"]:
        if one not in matched:
            message = f"does not list GPU {label(one)}"
            found.append(("", Finding("gpu-unlisted", "info", "llm_host_gpus", message, "Add it to use it")))
    return found + _foreign_findings(declared, facts, users, matched)


def _foreign_findings(
    declared: Declared, facts: Facts, users: Mapping[str, Service], matched: Iterable[FoundGpu | None]
) -> list[tuple[str, Finding]]:
    """Processes that hold memory of a GPU and are no engine of ours; an error where a service would not fit beside them."""
    ours = {c["id"] for c in facts["containers"]}
    serving = {c["service"] for c in facts["containers"] if c["state"] == "running"}
    found = []
    for entry, one in zip(declared.gpus, matched, strict=True):
        held = [p for p in (one["processes"] if one else []) if p.get("container", "") not in ours]
        own = {s: service for s, service in users.items() if {entry.index, entry.uuid} & set(service.gpus)}
        if not one or not held or not own:
            continue
        total = sum(p["memory"] or 0 for p in held)
        size = one["memory"] or entry.memory
        shares = sum(placement.share(s) for s in own.values())
        fits = total + shares * size <= size
        who = ", ".join(_foreign(p) for p in held)
        for name in own:
            severity = "error" if not fits and name not in serving else "warn"
            message = f"GPU {one['index']} is used by {who}"
            remedy = "Stop it, or give the service another GPU or less of it (gpu-memory-utilization)"
            found.append((name, Finding("gpu-held", severity, f"llm_services.{name}.gpus", message, remedy)))
    return found


def _foreign(process: GpuProcess) -> str:
    parts = [f"pid {process['pid']}"]
    parts += [f"container {process['container'][:12]}"] if process["container"] else []
    parts += [f"{process['memory'] / GIB:.1f} GiB"] if process["memory"] else []
    return f"{process['name']} ({', '.join(parts)})"


def _network_findings(networks: Mapping[str, bool]) -> list[Finding]:
    """Networks that somebody else made under our names, and of the other kind: they would be used as they are."""
    found = []
    for network, internal in names.NETWORKS.items():
        if networks.get(network, internal) != internal:
            kind = (
                "is not internal: engines would have a way out"
                if internal
                else "is internal: no port could be published"
            )
            remedy = f"Detach what uses it, `docker network rm {network}`, and run again: it is made anew"
            found.append(Finding("network-kind", "error", f"Docker network {network}", kind, remedy))
    return found


def _disk_findings(facts: Facts, missing_images: Iterable[Image], missing_models: Iterable[Model]) -> list[Finding]:
    """Room for what is to be fetched, with a tenth to spare; both folders may share one file system."""
    images = {f"image {i.name}": i.size_gib for i in missing_images}
    models = {f"model {m.name}": m.size_gib for m in missing_models}
    disks: dict[Any, tuple[str, float, dict[str, float]]] = {}
    for place, wanted in (("docker", images), ("root", models)):
        disk = facts["disk"].get(place)
        if disk and wanted:
            path, free, needs = disks.get(disk["device"], (disk["path"], disk["free"] / GIB, {}))
            disks[disk["device"]] = (path, free, {**needs, **wanted})
    found = []
    for path, free, needs in disks.values():
        total = sum(needs.values()) * 1.1
        if total > free:
            parts = ", ".join(f"{what} {gib:g} GiB" for what, gib in needs.items())
            message = f"{path} has {free:.1f} GiB free, this run needs {total:.1f} GiB ({parts}, and a tenth to spare)"
            found.append(
                Finding("disk-full", "error", "llm_root", message, "Free some space, or move llm_root or Docker's data")
            )
    return found


def _made_offline(declared: Declared, facts: Facts, image: Image) -> bool:
    """Whether a source may do without the network; what a build requires of its base, the base may have."""
    for source in image.sources:
        build = source.get("build")
        if "archive" in source:
            return True
        if build and not build.get("packages") and not build.get("pip"):
            base = declared.images[build["base"]]
            if needs.image_id(base, facts) or _made_offline(declared, facts, base):
                return True
    return False


def _offline_findings(
    declared: Declared, facts: Facts, missing_images: Iterable[Image], missing_models: Iterable[Model]
) -> list[Finding]:
    found = []
    for model in missing_models:
        if not any({"path", "archive", "quantize"} & set(s) for s in model.sources):
            message = "is not on the host, and all its sources need the network"
            remedy = "Add a `path` or `archive` source, or run once with llm_offline: false"
            found.append(Finding("offline-model", "error", f"llm_models.{model.name}", message, remedy))
    for image in missing_images:
        if not _made_offline(declared, facts, image):
            message = "is not on the host, and all its sources need the network"
            remedy = "Add an `archive` source, or run once with llm_offline: false"
            found.append(Finding("offline-image", "error", f"llm_images.{image.name}", message, remedy))
    return found
