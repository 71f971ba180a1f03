"""The plan: what a run would do, and whether it may. Pure functions of the declaration and of what the host reported.

`judge` needs no host. `look_at_host` adds what only the host can tell. `work` lists what differs. Facts are the mapping that
module llm_host_facts returns; its RETURN documentation is the reference for the keys used here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm import compose, deploy, door, fit, images, numbers, placement, quantize, smoke, spec
from ansible.module_utils.llm.gpu import differences, label, match, runtime_problem
from ansible.module_utils.llm.placement import deployed
from ansible.module_utils.llm.spec import GIB, Declared, Finding, Image, Model, Service, nearest

STAGES = ("validate", "host", "images", "models", "services", "gateway", "observe", "verify")
# Molecule skips these in every run, whether or not anything carries them.
MOLECULE_TAGS = ("molecule-notest", "notest", "molecule-idempotence-notest")
# States of a container that somebody is served by, or soon again.
RUNS = ("running", "restarting", "paused")
PRUNE = "take it away with -e llm_prune=true, which also removes engines, images and models that nothing needs"
Fits = Mapping[str, fit.Fit]  # by service
Facts = Mapping[str, Any]
Findings = dict[str, list[Finding]]  # by service; "" holds those of the host as a whole


# ---------------------------------------------------------------------------------------------------------------------
# Which part of the work a command line asks for.


@dataclasses.dataclass(frozen=True)
class Selection:
    """Stages to run and services to touch, both in their declared order. `named`: services named by tags, any host's."""

    stages: tuple[str, ...]
    services: tuple[str, ...]
    named: tuple[str, ...] = ()


def select(
    run_tags: Iterable[str], skip_tags: Iterable[str], services: Iterable[str], known: Iterable[str] | None = None
) -> tuple[Selection, list[Finding]]:
    """Stages and services from --tags and --skip-tags.

    A tag is the name of a stage or of a service. No service tag means all services, no stage tag means all stages.
    services: those of this host; known: all that are declared (so that one tag can serve several hosts).
    """
    services = tuple(services)
    names = {*services, *(known or ())}
    wanted, unwanted = set(run_tags) - {"all", "always"}, set(skip_tags) - {"never", *MOLECULE_TAGS}
    found = [
        Finding(
            "unknown-tag",
            "error",
            "--tags",
            f"`{tag}` is no service and no stage",
            f"{_meant(tag, [*names, *STAGES])}Known here: {', '.join([*sorted(names), *STAGES])}",
        )
        for tag in sorted((wanted | unwanted) - names - set(STAGES))
    ]
    stages = [s for s in STAGES if s in wanted] or list(STAGES)
    chosen = [s for s in services if s in wanted] if wanted & names else list(services)
    selection = Selection(
        tuple(s for s in stages if s not in unwanted),
        tuple(s for s in chosen if s not in unwanted),
        tuple(sorted(wanted & names)),
    )
    return selection, found


def _meant(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f"Did you mean `{near}`? " if near else ""


# ---------------------------------------------------------------------------------------------------------------------
# What the declaration alone decides.


def judge(declared: Declared, command: str = placement.COMMAND) -> Findings:
    """Findings about the services of a host, from the declaration alone. command: a run of it, for remedies."""
    found: Findings = {s: [] for s in declared.host_services}
    for service in (declared.services[s] for s in declared.host_services):
        if service.status in ("archived", "rejected") and service.name not in declared.settings.force:
            remedy = f"Take it out of llm_host_services, or deploy it all the same with -e llm_force={service.name}"
            key, message = f"llm_services.{service.name}.status", f"is {service.status}: {service.reason}"
            found[service.name].append(Finding(f"status-{service.status}", "error", key, message, remedy))
    for name in placement.deployed(declared):
        found[name] += quantize.judge(declared, declared.models[declared.services[name].model])
        found[name] += _gpu_findings(declared, declared.services[name])
        found[name] += deploy.findings(declared.services[name])
    for findings in (placement.findings(declared, command), door.findings(declared)):
        for name, more in findings.items():
            found.setdefault(name, []).extend(more)
    return found


def _gpu_findings(declared: Declared, service: Service) -> list[Finding]:
    key = f"llm_services.{service.name}"
    known: list[int | str] = [g.index for g in declared.gpus]
    known += [g.uuid for g in declared.gpus if g.uuid]
    found = []
    for gpu in service.gpus:
        if gpu not in known:
            names = ", ".join(str(g) for g in known) or "none"
            found.append(
                Finding(
                    "gpu-undeclared",
                    "error",
                    f"{key}.gpus",
                    f"wants GPU {gpu}, the host declares {names}",
                    "Correct it, or add the GPU to llm_host_gpus",
                )
            )
    if len({placement.gpu_name(declared, g) for g in service.gpus}) != len(service.gpus):
        found.append(Finding("gpu-twice", "error", f"{key}.gpus", "names a GPU twice", "Name each GPU once"))
    image = declared.images[service.image]
    for flag in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"):
        value = service.flag(flag, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            message = f"must be a whole number of at least 1, got {value!r}"
            found.append(Finding("parallel-size", "error", f"{key}.args.{flag}", message, "Correct it"))
            return found
    if image.accelerator == "cpu" and service.gpus:
        message = f"gives GPUs to image `{image.name}`, which serves on the CPU"
        found.append(Finding("gpu-on-cpu", "error", f"{key}.gpus", message, "Write `gpus: []`, or choose a GPU image"))
    if image.accelerator == "nvidia" and declared.settings.accelerator == "cpu":
        message = f"`{image.name}` needs an NVIDIA GPU, the host declares llm_accelerator: cpu"
        found.append(Finding("accelerator", "error", f"{key}.image", message, "Choose a CPU image or another host"))
    return found


def estimates(declared: Declared, known: Mapping[str, fit.Known], facts: Facts | None) -> dict[str, fit.Fit]:
    """What each service of the host takes and leaves of its memory. known: by model. Facts add what was measured there."""
    records = (facts or {}).get("calibration", [])
    found = {}
    for name in declared.host_services:
        service = declared.services[name]
        image_id = _image_id(declared.images[service.image], facts)
        found[name] = fit.for_service(declared, service, known, image_id, records)
    return found


def fit_findings(declared: Declared, fits: Fits) -> Findings:
    """What the estimates mean for the services that are to run."""
    return {s: fit.findings(declared.services[s], fits[s]) for s in deployed(declared) if s in fits}


def answer_findings(declared: Declared, facts: Facts | None) -> Findings:
    """How sure the known answers of the services that are to run are: by declaration, else by what the host's engine showed."""
    found: Findings = {}
    for name in deployed(declared):
        service = declared.services[name]
        model = declared.models[service.model]
        asked = smoke.known(model.smoke, service.smoke, service.args, context=0, vision=False)
        shown = (facts or {}).get("releases", {}).get(name, {}).get("known") or {}
        same = all(shown.get(key) == asked.get(key, spec.SMOKE[key].default) for key in ("question", "answer"))
        margin = asked.get("margin", shown.get("margin") if same else None)
        key = f"llm_services.{name}.smoke" if "question" in service.smoke else f"llm_models.{model.name}.smoke"
        if margin is None:
            message = "has no `margin`: the first deployment measures it"
            found[name] = [Finding("margin-unknown", "info", key, message, "Measure it with scripts/margin.py")]
        elif margin < numbers.LEAST_MARGIN:
            message = (
                f"the known answer leads by {margin:.2f} nats only, less than {numbers.LEAST_MARGIN}: another processor or batch "
                "may answer otherwise"
            )
            remedy = "Choose a question with a margin (scripts/margin.py)"
            found[name] = [Finding("margin", "warn", key, message, remedy)]
    return found


def document(declared: Declared, findings: Findings, fits: Fits | None = None) -> dict[str, Any]:
    """The shape of plan.json."""
    services: dict[str, dict[str, Any]] = {}
    for service in declared.host_services:
        own = findings.get(service, [])
        worst = {f.severity for f in own}
        services[service] = {
            "verdict": "refuse" if "error" in worst else "warn" if "warn" in worst else "ok",
            "findings": [f.as_dict() for f in own],
            "gpus": list(declared.services[service].gpus),
            "kv_tokens": {"low": None, "high": None},
        }
        if fits and service in fits:
            services[service]["fit"] = fits[service].as_dict()
            if tokens := fits[service].tokens:
                services[service]["kv_tokens"] = {"low": int(tokens.low), "high": int(tokens.high)}
    return {"services": services, "findings": [f.as_dict() for f in findings.get("", [])]}


# ---------------------------------------------------------------------------------------------------------------------
# What the host adds.


def needed_images(declared: Declared, services: Iterable[str]) -> tuple[str, ...]:
    """Images that the services run, in catalog order; bases of builds are made on demand."""
    wanted = {declared.services[s].image for s in services}
    return tuple(i for i in declared.images if i in wanted)


def host_models(declared: Declared) -> tuple[str, ...]:
    """Models that services of the host have, whatever their status, and those that they are made of."""
    found = needed_models(declared, declared.host_services)
    return tuple(dict.fromkeys([*found, *quantize.sources(declared, found)]))


def needed_models(declared: Declared, services: Iterable[str]) -> tuple[str, ...]:
    """Models that the services load, in catalog order."""
    wanted = {declared.services[s].model for s in services}
    return tuple(m for m in declared.models if m in wanted)


def models_to_verify(declared: Declared, facts: Facts | None, services: Iterable[str]) -> dict[str, bool]:
    """Models to look at, to whether a repair fetches one that is not there.

    They are those that the services load, and before them what those are made of: if it lies on the host; or if it does not, and a
    repair has to make one of it that is damaged.
    """
    needed = needed_models(declared, services)
    have = (facts or {}).get("models", {})
    missing = {}
    if facts and declared.settings.repair:
        damaged = [m for m in needed if have.get(m, {}).get("problem")]
        missing = {s: True for s in quantize.sources(declared, damaged) if not have.get(s, {}).get("present")}
    there = {s: False for s in quantize.sources(declared, needed) if not facts or have.get(s, {}).get("present")}
    return {**there, **missing, **{m: missing.get(m, False) for m in needed}}


def images_to_make(declared: Declared, facts: Facts | None, services: Iterable[str]) -> tuple[str, ...]:
    """Of `services` and their gateway: images that are not there, or not proven to hold what is declared of them.

    With the one to quantize in, while a model of theirs is still to be made.
    """
    services = tuple(services)
    wanted = [*needed_images(declared, services)]
    wanted += quantize.images(declared, needed_models(declared, services), facts)
    wanted += door_images(declared) if wanted else []
    return tuple(dict.fromkeys(i for i in wanted if not _is_made(declared.images[i], facts)))


def door_images(declared: Declared) -> list[str]:
    """Images of the door: the gateway's, and its ACME client's where it has one."""
    wanted = (compose.GATEWAY_IMAGE, *([compose.ACME_IMAGE] if door.acme_request(declared) else []))
    return [i for i in wanted if i in declared.images]


def _is_made(image: Image, facts: Facts | None) -> bool:
    found = _image_id(image, facts)
    record = (facts or {}).get("image_records", {}).get(compose.image_ref(image))
    return bool(found) and images.is_proven(str(found), image.proofs, record)


def _bases(declared: Declared, image: str) -> set[str]:
    """Images that `image` may be built on, however far down."""
    found: set[str] = set()
    for source in declared.images[image].sources:
        if "build" in source:
            base = source["build"]["base"]
            found |= {base, *_bases(declared, base)}
    return found


def images_to_remove(declared: Declared, facts: Facts, upcoming: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Image names of ours that nothing needs: [{name, id, size}].

    Needed are images of the current and the previous release of every service on the host, of all services that it is to
    run or may go back to, of the gateway, with what they are built on, and those that a container uses. upcoming:
    services that are about to be replaced, to predict: what is previous now is not kept then.
    """
    wanted = {declared.services[s].image for s in declared.host_services}
    wanted |= {*door_images(declared)}
    wanted |= set(quantize.images(declared, host_models(declared)))
    wanted |= {base for image in wanted for base in _bases(declared, image)}
    needed = {str(_image_id(declared.images[i], facts)) for i in wanted}
    soon = set(upcoming)
    for service, kept in facts["release_images"].items():
        needed |= {image for which, image in kept.items() if service not in soon or which == "current"}
    return images.unneeded(facts["owned_images"], needed, [o["container"] for o in orphans(declared, facts)])


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
        return found  # without the engine's word, its own ports look like a stranger's
    ports = {declared.services[s].port: (s, f"llm_services.{s}.port") for s in services}
    ports |= {port: ("", key) for port, key in door.ports(declared).items()} if services else {}
    for port, (service, key) in ports.items():
        holder = facts["listening"].get(str(port))
        published_by = facts["published"].get(str(port))
        if published_by not in (None, compose.GATEWAY):
            who = f"container `{published_by}`"
        elif holder and published_by is None:
            who = f"process {holder['process']} (pid {holder['pid']})" if holder.get("pid") else "another process"
        else:
            continue
        message = f"port {port} is taken by {who}"
        remedy = "Stop it, or declare another port" + ("" if service else ", or 0 for none")
        found.setdefault(service, []).append(Finding("port-taken", "error", key, message, remedy))
    gateway = facts.get("gateway", {})
    found[""] += door.host_findings(declared, gateway.get("certificate") or {}, gateway.get("now", 0))
    found[""] += door.key_findings(declared, gateway.get("clients") or {})
    # An engine that is only stopped may have them all; it is started and asked again.
    asked = facts["docker"]["running"] or not facts["docker"]["installed"]
    models = needed_models(declared, services)
    tools = quantize.images(declared, models, facts)
    wanted = [declared.images[i] for i in (*needed_images(declared, services), *tools)] if asked else []
    missing_images = _missing(declared, facts, [i for i in wanted if not _image_id(i, facts)])
    for service, finding in _held_findings(declared, facts, services):
        found.setdefault(service, []).append(finding)
    for service, finding in _found_gpu_findings(declared, facts, services, "host" in tuple(stages)):
        found.setdefault(service, []).append(finding)
    found[""] += _network_findings(facts["networks"])
    missing_models = []
    for name in dict.fromkeys([*quantize.sources(declared, models, facts), *models]):
        model, state = declared.models[name], facts["models"].get(name, {})
        folder = compose.model_dir(declared.settings, model)
        if state.get("problem"):
            message = f"the files in {folder} are damaged: {state['problem']}"
            remedy = "`playbooks/verify_models.yml -e llm_repair=true` fetches what is damaged"
            found[""].append(Finding("model-broken", "error", f"llm_models.{name}", message, remedy))
        elif not state.get("present"):
            missing_models.append(model)
    found[""] += quantize.findings(declared, facts, models)
    found[""] += _disk_findings(facts, missing_images, missing_models)
    if declared.settings.offline:
        found[""] += _offline_findings(declared, facts, missing_images, missing_models)
    return found


def loss_findings(declared: Declared, facts: Facts, stages: Iterable[str]) -> list[Finding]:
    """What a run of site.yml would take from a host that serves although nobody said so: all of it, or its supervisor.

    `state: stopped` and `state: absent` say it of a service, `llm_prune` of everything. stages: those of the run.
    """
    stages = {*stages}
    gateway, supervisor = (facts.get(part, {}).get("state") in RUNS for part in ("gateway", "supervisor"))
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


def stranger_findings(
    declared: Declared, facts: Facts, services: Iterable[str], rendered: Mapping[str, compose.Release]
) -> Findings:
    """Containers of others that have the name of one that is to be made, or write where a service writes."""
    found: Findings = {"": []}
    wanted = {rendered[s].container: s for s in services}
    claims = {s: placement.claim(declared, declared.services[s]) for s in services}
    for other in facts.get("strangers", ()):
        who = f"container `{other['name']}` ({other['image']}, {other['state']}), which is not of this project,"
        alone = {
            compose.GATEWAY: "the gateway",
            compose.SUPERVISOR: "the supervisor",
            compose.ACME: "the ACME client",
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


def _docker_findings(docker: Mapping[str, Any], starts: bool) -> list[Finding]:
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
    running = {o["service"] for o in orphans(declared, facts) if o["state"] == "running"} & set(declared.services)
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
    seen = facts.get("gpu")
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
        # What no service of this run needs is told, and stops nothing.
        severity = differs["severity"] if own or differs["severity"] != "error" else "warn"
        key = f"llm_host_gpus.{differs['position']}.{differs['part']}"
        finding = Finding(differs["id"], severity, key, differs["message"], differs["remedy"])
        found += [(s, finding) for s in own] or [("", finding)]
    matched = [match(entry, seen["gpus"]) for entry in declared.gpus]
    for one in seen["gpus"]:
        if one not in matched:
            message = f"does not list GPU {label(one)}"
            found.append(("", Finding("gpu-unlisted", "info", "llm_host_gpus", message, "Add it to use it")))
    return found + _stranger_findings(declared, facts, users, matched)


def _stranger_findings(
    declared: Declared, facts: Facts, users: Mapping[str, Service], matched: Iterable[Mapping[str, Any] | None]
) -> list[tuple[str, Finding]]:
    """Processes that hold memory of a GPU and are no engine of ours; an error where a service would not fit beside them."""
    ours = {c["id"] for c in facts["containers"]}
    serving = {c["service"] for c in facts["containers"] if c["state"] == "running"}
    found = []
    for entry, one in zip(declared.gpus, matched, strict=True):
        held = [p for p in (one or {}).get("processes", []) if p["container"] not in ours]
        own = {s: service for s, service in users.items() if {entry.index, entry.uuid} & set(service.gpus)}
        if not one or not held or not own:
            continue
        total = sum(p["memory"] or 0 for p in held)
        size = one["memory"] or entry.memory
        shares = sum(placement.share(s) for s in own.values())
        fits = total + shares * size <= size
        who = ", ".join(_stranger(p) for p in held)
        for name in own:
            severity = "error" if not fits and name not in serving else "warn"
            message = f"GPU {one['index']} is used by {who}"
            remedy = "Stop it, or give the service another GPU or less of it (gpu-memory-utilization)"
            found.append((name, Finding("gpu-held", severity, f"llm_services.{name}.gpus", message, remedy)))
    return found


def _stranger(process: Mapping[str, Any]) -> str:
    parts = [f"pid {process['pid']}"]
    parts += [f"container {process['container'][:12]}"] if process["container"] else []
    parts += [f"{process['memory'] / GIB:.1f} GiB"] if process["memory"] else []
    return f"{process['name']} ({', '.join(parts)})"


def _network_findings(networks: Mapping[str, bool]) -> list[Finding]:
    """Networks that somebody else made under our names, and of the other kind: they would be used as they are."""
    found = []
    for network, internal in compose.NETWORKS.items():
        if networks.get(network, internal) != internal:
            kind = (
                "is not internal: engines would have a way out"
                if internal
                else "is internal: no port could be published"
            )
            remedy = f"Detach what uses it, `docker network rm {network}`, and run again: it is made anew"
            found.append(Finding("network-kind", "error", f"Docker network {network}", kind, remedy))
    return found


def _missing(declared: Declared, facts: Facts, wanted: Iterable[Image]) -> list[Image]:
    """Images that are not there, with the bases that those need in any case."""
    found = list(wanted)
    for image in found:  # grows while it is read
        bases = {s["build"]["base"] if "build" in s else "" for s in image.sources}
        if len(bases) == 1 and (base := bases.pop()):
            more = declared.images[base]
            if more not in found and not _image_id(more, facts):
                found.append(more)
    return found


def _image_id(image: Image, facts: Facts | None) -> str | None:
    found: str | None = (facts or {}).get("images", {}).get(compose.image_ref(image))
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
            if _image_id(base, facts) or _made_offline(declared, facts, base):
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


# ---------------------------------------------------------------------------------------------------------------------
# What differs between declared and real.


def fingerprint(key: str) -> str:
    """Short hash by which a declared key is compared with the one on the host; keys are long and random."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def releases(
    declared: Declared, facts: Facts | None, plugins: Mapping[str, Mapping[str, str]]
) -> dict[str, compose.Release]:
    """Release of every service of the host; parts that only the host knows are marked as not there yet."""
    found, door_key = {}, (facts or {}).get("gateway", {}).get("engine_key", "")
    for name in declared.host_services:
        service = declared.services[name]
        model = (facts or {}).get("models", {}).get(service.model, {})
        image_id = _image_id(declared.images[service.image], facts)
        found[name] = compose.release(declared, service, image_id, model.get("digest"), plugins.get(name), door_key)
    return found


def service_work(
    facts: Facts,
    services: Iterable[str],
    rendered: Mapping[str, compose.Release],
    keys: Mapping[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """Services to (re)deploy, with the reasons: service -> [{name, current, desired}]. Unchanged ones are left out."""
    found = {}
    for name in services:
        release, current = rendered[name], facts["releases"].get(name, {})
        if current.get("current") != release.hash:
            why = compose.reasons(current.get("facts"), release.facts)
        else:
            why = _drift(facts, release, current)
        if name in keys and facts["keys"].get(name) not in (None, fingerprint(keys[name])):
            why.append({"name": "api key", "current": "another one", "desired": "the one given"})
        elif facts["keys"].get(name) is None and not why:
            why.append({"name": "api key", "current": None, "desired": "present"})
        if name in facts.get("gateway", {}).get("old_engine_keys", ()) and not why:
            why.append({"name": "key between door and engine", "current": "an older one", "desired": "the newest"})
        if why:
            found[name] = why
    return found


def _drift(facts: Facts, release: compose.Release, current: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences between what the current release should be and what is there."""
    why: list[dict[str, Any]] = []
    for path in current["drift"]:
        # The engine has read its plugins and reads them again when it restarts; compose.yml is read by Compose alone.
        mounted = path.startswith("plugins/")
        why.append(
            {"name": f"file {path}", "current": "edited or gone", "desired": "as rendered", "file_only": not mounted}
        )
    container = next((c for c in facts["containers"] if c["name"] == release.container), None)
    if container is None:
        why.append({"name": "container", "current": "gone", "desired": "running"})
    elif container["state"] != "running":
        why.append({"name": "container", "current": container["state"], "desired": "running"})
    elif container["image_id"] != release.facts["image"]["id"]:
        why.append({"name": "image", "current": container["image_id"], "desired": release.facts["image"]["id"]})
    elif current.get("started") and container["made_of"] != current["started"]:
        why.append({"name": "container", "current": "made of other settings", "desired": "as rendered"})
    return why


def to_prove(facts: Facts, services: Iterable[str], rendered: Mapping[str, compose.Release]) -> tuple[str, ...]:
    """Services whose current release has no passing verdict yet, or none since an attempt to deploy them failed."""
    found = facts["releases"]
    return tuple(
        s
        for s in services
        if not (found.get(s, {}).get("proven") and found[s].get("current") == rendered[s].hash)
        or failed_attempt(facts, s, rendered[s].hash)
    )


def failed_attempt(facts: Facts, service: str, release: str) -> dict[str, Any] | None:
    """The last attempt to deploy a service that failed (host.attempt), until a later one succeeds; None without one.

    That is a release that was made current since, or a run that found nothing to deploy and got right answers: they prove nothing
    of the release that failed, so its attempt is told for as long as that one is declared. release: the declared one.
    """
    found = facts["releases"].get(service, {})
    failed: dict[str, Any] | None = found.get("attempt")
    waits = failed and failed["release"] == release != found.get("current")
    return failed if failed and (waits or not failed["proven_since"]) else None


def to_stop(
    declared: Declared, facts: Facts, services: Iterable[str], deploying: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Containers of selected services that are not to run: [{service, container, state}].

    Those that are declared stopped or absent, and those that stand by and that no service of `deploying` displaces.
    """
    services = set(services)
    found = []
    for container in facts["containers"]:
        service = declared.services.get(container["service"])
        if service is None or service.name not in services or service.state == "present":
            continue
        if service.state == "absent" or container["state"] == "running":
            found.append({"service": service.name, "container": container["name"], "state": service.state})
    displaced = [d for name in deploying for d in placement.displaces(declared, facts, name)]
    for waiting in placement.unwanted(declared, facts):
        if waiting["service"] in services and waiting not in displaced:
            found.append({**waiting, "state": "stopped"})
    return found


def todo(
    stages: Iterable[str],
    work: Mapping[str, Any] | None,
    *,
    images: Iterable[Any] = (),
    models: Iterable[Any] = (),
    prune: bool = False,
    check: bool = False,
) -> list[str]:
    """Parts of a run that have something to do: images, models, services, verify, and leftovers (what is to be removed last).

    One condition leaves out a part with all its tasks; each task costs a process of the controller even when it is skipped.
    Host and gateway are no such parts: their roles decide. stages: those chosen. work: what differs; None when the host has
    not been read, and any chosen stage may have something to do. images, models: those to be made.
    """
    chosen = {*stages}
    if work is None:
        return sorted(chosen | {"services"})  # which begins by reading the host
    made = {"images": bool([*images]), "models": bool([*models])}
    needed = {part for part in made if made[part] and part in chosen}
    if any(made.values()) or (
        "services" in chosen and any(work[k] for k in ("preflight", "stop", "orphans", "removed", "deploy"))
    ):
        needed.add("services")  # new images and models change what differs, so that the host is read again there
    if ("services" in chosen and work["strays"]) or (prune and chosen & {"images", "models"}):
        needed.add("leftovers")
    if "verify" in chosen and work["prove"] and not check:
        needed.add("verify")
    return sorted(needed)


def orphans(declared: Declared, facts: Facts) -> list[dict[str, str]]:
    """Engine containers that the declaration does not want: [{service, container, state}]. Removed only on request.

    Those of services that stand by are kept, for a switch.
    """
    placed = placement.place(declared)
    wanted = {*placed.running, *placed.displaced, *placed.standing_by}
    wanted |= {s for s in declared.host_services if declared.services[s].state != "present"}
    return [
        {"service": c["service"], "container": c["name"], "state": c["state"]}
        for c in facts["containers"]
        if c["service"] not in wanted
    ]


def routes(declared: Declared, facts: Facts, upcoming: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What the gateway serves: one entry a service that is to run, in order of ports.

    [{service, port, container, model, hostname, at_once}];
    container is that of the current release, "" while there is none (the gateway answers 503). Who was stopped on purpose, and
    was not started since, has none and `stopped`: a run that is for other services leaves it at that.
    upcoming: service -> release that is about to become current, to predict.
    """
    stopped = set(facts.get("gateway", {}).get("stopped", ())).difference(upcoming or ())
    running = {c["name"] for c in facts.get("containers", ()) if c["state"] == "running"}
    found = []
    for name in deployed(declared):
        current = (upcoming or {}).get(name) or facts["releases"].get(name, {}).get("current")
        container = compose.container_name(name, current) if current else ""
        route: dict[str, Any] = {"service": name, "container": container, **route_of(declared.services[name])}
        if name in stopped and container not in running:
            route |= {"container": "", "stopped": True}
        found.append(route)
    return sorted(found, key=lambda r: r["port"])


def route_of(service: Service) -> dict[str, Any]:
    """What of a service decides how the gateway leads to it; at_once: what its engine works on at a time, 0 if it decides."""
    at_once = service.flag("max-num-seqs", 0)
    return {
        "port": service.port,
        "model": service.served_model_name,
        "hostname": service.hostname,
        "at_once": at_once if isinstance(at_once, int) else 0,
    }


def status(
    declared: Declared,
    facts: Facts,
    findings: Findings,
    work: Mapping[str, list[dict[str, Any]]],
    rendered: Mapping[str, compose.Release] | None = None,
) -> dict[str, dict[str, Any]]:
    """Declared beside real, a few short texts a service of the host. work: see service_work. rendered: the declared releases.

    `act`: deploy, stop or nothing to do; `a run would`: the same in full, absent where there is nothing to do. `last attempt`: the
    deployment that failed, with time, cause and folder, absent once a later one succeeded.
    """
    wanted = deployed(declared)
    stops = to_stop(declared, facts, declared.host_services, work)
    found = {}
    for name in declared.host_services:
        service = declared.services[name]
        current = facts["releases"].get(name, {}).get("current")
        real = next((c for c in facts["containers"] if c["service"] == name and c["release"] == current), None)
        waits = "stands by" if service.status in ("active", "fallback") else service.status
        entry: dict[str, Any] = {
            "declared": "to run" if name in wanted else service.state if service.state != "present" else waits,
            "real": f"{real['state']} ({real['status']})" if real else "no container",
            "release": current or "none",
            "proven": "yes" if facts["releases"].get(name, {}).get("proven") else "no",
            "port": service.port,
            "model": service.served_model_name,
            "image": _image_status(declared.images[service.image], facts),
            **_made(declared, facts, service),
            "act": "nothing to do",
        }
        if service.gpus and facts.get("gpu"):
            entry["gpus"] = _gpu_lines(declared, facts["gpu"], service)
        if name in work:
            entry["act"] = "deploy"
            entry["a run would"] = _deploy_lines(declared, facts, name, work[name])
        elif own_stops := [s for s in stops if s["service"] == name]:
            entry["act"] = "stop"
            entry["a run would"] = [f"stop {s['container']}, which is not to run" for s in own_stops]
        wanted_release = rendered[name].hash if rendered and name in rendered else ""
        if failed := failed_attempt(facts, name, wanted_release):
            entry["last attempt"] = (
                f'{failed["at"]}, release {failed["release"]}, failed at "{failed["step"]}": {failed["cause"].rstrip(". ")}; '
                f"diagnostics in {failed['folder']}"
            )
        if own := [f.text() for f in findings.get(name, [])]:
            entry["findings"] = own
        found[name] = entry
    return found


def _made(declared: Declared, facts: Facts, service: Service) -> dict[str, str]:
    """What the model of a service was made of here, what that cost, and what it may cost."""
    made = facts["models"].get(service.model, {}).get("made") or {}
    origin = quantize.made_of(declared.models[service.model])
    if "quality" not in made or not origin:
        return {}
    return {"quantized": f"{quantize.summary(made)}; {quantize.allowed(declared.recipes[origin[1]].quality)}"}


def _deploy_lines(declared: Declared, facts: Facts, name: str, reasons: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a deployment would do, one thing a line."""
    lines = [f"{r['name']}: {r['current'] or 'none'} -> {r['desired'] or 'none'}" for r in reasons]
    for other in placement.displaces(declared, facts, name):
        lines.append(f"stop {other['container']} first, whose place it takes")
    if any(c["service"] == name and c["state"] == "running" for c in facts["containers"]):
        fits, why = placement.side_by_side(declared, facts, name)
        lines.append(f"start the new release {'beside the old one' if fits else 'after the old one stopped'} ({why})")
    return lines


def _gpu_lines(declared: Declared, seen: Mapping[str, Any], service: Service) -> list[str]:
    """The GPUs of a service as they were found, one line each."""
    if seen["trouble"]:
        return [str(seen["trouble"]["message"])]
    lines = []
    for entry in declared.gpus:
        if not {entry.index, entry.uuid} & set(service.gpus):
            continue
        one = match(entry, seen["gpus"])
        free = f", {one['free'] / GIB:.1f} GiB free, driver {seen['driver']}" if one and one["free"] else ""
        lines.append(f"{label(one)}{free}" if one else f"{entry.index}: not there")
    return lines


def _image_status(image: Image, facts: Facts) -> str:
    """Reference of an image, whether it is there, and what was proven of it."""
    ref = compose.image_ref(image)
    if not _image_id(image, facts):
        return f"{ref}, not there"
    if not image.proofs:
        return ref
    if not _is_made(image, facts):
        return f"{ref}, not proven"
    return f"{ref}, proven: {', '.join(p['proof'] for p in facts['image_records'][ref]['proofs'])}"
