"""What a plan hands over: the parts that roles, modules and reports are given, as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.base.names import ACME_IMAGE, GATEWAY_IMAGE
from ansible.module_utils.llm.clients import programs
from ansible.module_utils.llm.declare import lock
from ansible.module_utils.llm.declare.facts import NO_MODEL, NO_RELEASES, Facts, Reason, Route
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.variables import SETTINGS
from ansible.module_utils.llm.engine.judge import known
from ansible.module_utils.llm.fit import estimate
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.plan import (
    changes,
    compose,
    declaration,
    deploy,
    needs,
    placement,
    preflight,
    quantize,
    status,
    supervisor,
    tables,
)
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan.judgement import Judged
from ansible.module_utils.llm.plan.types import (
    About,
    ClientEntry,
    GatewayPlan,
    HostWants,
    ImageJob,
    ModelJob,
    Plan,
    ServicePlan,
    Work,
)

Value = TypeVar("Value")
Write = Callable[[compose.Release], str]
"""Makes the text of a release's compose file."""


def plain(value: Value) -> Value:
    """A value as JSON has it: without Ansible's tagged types, tuples as lists (no type of a plan says tuple)."""
    found: Value = json.loads(json.dumps(value))
    return found


def plan(judged: Judged, reached: str, write: Write) -> Plan:
    """The plan of a host, as library/llm_plan.py documents it. reached: its name or address for others than itself."""
    declared, given, facts = judged.declared, judged.given, judged.given.facts
    deployed = placement.deployed(declared)
    reasons = (
        changes.service_work(facts, judged.running, judged.rendered, given.keys)
        if facts
        else {s: [] for s in judged.rendered}
    )
    document = declaration.document(declared, judged.findings, judged.fits)
    found: Plan = {
        "services": {
            s: {
                **document["services"][s],
                **service(declared, judged.rendered[s], write if s in reasons else None, facts),
            }
            for s in declared.host_services
        },
        "findings": document["findings"],
        "table": "\n".join(tables.plan_table(declared, judged.findings, judged.fits)),
        "stages": given.selection.stages,
        "todo": changes.todo(given.selection.stages, None),
        "selected": given.selection.services,
        "named": given.selection.named,
        "declared_services": sorted(declared.services),
        "deployed": deployed,
        "about": {s: about(declared, s, facts) for s in deployed},
        "machine": {"processor": facts["processor"]} if facts else {},
        "clients": [client(declared, s, reached) for s in deployed],
        "settings": {key: getattr(declared.settings, key) for key in SETTINGS if key != "gateway"},
        "images": [
            image_job(declared, i, judged.rendered) for i in needs.images_to_make(declared, facts, judged.running)
        ],
        "models": missing_models(declared, judged.running, facts),
        "models_here": models_here(declared, given.selection.services, facts),
        "host": host(declared),
        "supervisor": supervisor.plan(declared),
        "gateway": gateway(declared),
    }
    return plain(_on_host(judged, found, facts, reasons) if facts else found)


def _on_host(judged: Judged, found: Plan, facts: Facts, reasons: Mapping[str, Sequence[Reason]]) -> Plan:
    """A plan with what needs the host's facts. found: one without. reasons: see changes.service_work."""
    declared, given = judged.declared, judged.given
    todo = work(judged, facts, reasons)
    releases = {s: r for s, r in facts["releases"].items() if s in declared.host_services}
    beside = [s for s, entry in found["services"].items() if entry["side_by_side"]]
    real = status.status(declared, facts, judged.findings, reasons, judged.rendered)
    return {
        **found,
        "work": todo,
        "gateway": gateway(declared, changes.routes(declared, facts, upcoming(judged, reasons))),
        "todo": changes.todo(
            given.selection.stages,
            todo,
            images=found["images"],
            models=found["models"],
            prune=declared.settings.prune,
            check=given.check,
        ),
        "rollback": deploy.rollback(releases, given.selection.named, judged.rendered, beside),
        "status": real,
        "status_table": "\n".join(tables.status_table(declared, facts, real, judged.findings)),
    }


def work(judged: Judged, facts: Facts, reasons: Mapping[str, Sequence[Reason]]) -> Work:
    """What differs, and what is to be done about it. reasons: see changes.service_work."""
    declared, given, rendered = judged.declared, judged.given, judged.rendered
    orphans = placement.orphans(declared, facts)
    return {
        "deploy": [
            {
                "name": s,
                "reasons": why,
                "restart": deploy.needs_restart(why),
                "displaces": placement.displaces(declared, facts, s),
            }
            for s, why in reasons.items()
        ],
        "stale": deploy.stale(facts, judged.running, reasons),
        "stop": changes.to_stop(declared, facts, given.selection.services, reasons),
        "orphans": [] if declared.settings.prune else orphans,
        "removed": orphans if declared.settings.prune else [],
        "prune_images": needs.images_to_remove(declared, facts, upcoming(judged, reasons)),
        "prune_models": needs.models_to_remove(declared, facts),
        "prove": changes.to_prove(facts, judged.running, rendered),
        "preflight": preflight.jobs(declared, facts, reasons, rendered, judged.configs, predict=given.check),
    }


def upcoming(judged: Judged, deploying: Iterable[str]) -> dict[str, str]:
    """Release by service that check mode takes for current: of those that a run would deploy."""
    return {s: judged.rendered[s].hash for s in deploying} if judged.given.check else {}


def gateway(declared: Declared, routes: Iterable[Route] = ()) -> GatewayPlan:
    """The gateway as roles gateway and vllm_service are given it. routes: see changes.routes; none before the host is read."""
    acme = ACME_IMAGE in needs.gateway_images(declared)
    return {
        "routes": [*routes],
        "settings": gateway_plan.settings(declared),
        "image": _ref(declared, GATEWAY_IMAGE),
        "acme_image": _ref(declared, ACME_IMAGE) if acme else "",
        "root": declared.settings.root,
        "bind_address": declared.settings.bind_address,
    }


def service(
    declared: Declared, release: compose.Release, write: Write | None = None, facts: Facts | None = None
) -> ServicePlan:
    """What role vllm_service is given of a service. write: None where the files of the release are not to be written."""
    own, settings = declared.services[release.service], declared.settings
    model, image = declared.models[own.model], compose.image_ref(declared.images[own.image])
    beside = placement.SideBySide(False, "the host was not looked at")
    if facts:
        beside = placement.side_by_side(declared, facts, own.name)
    found: ServicePlan = {
        "name": own.name,
        "release": release.hash,
        "container": release.container,
        "folder": compose.release_dir(settings, own.name, release.hash),
        "service_folder": compose.service_dir(settings, own.name),
        "cache": f"{settings.root}/cache/{names.cache_key(release.facts['image']['id'])}",
        "key_file": compose.key_file(settings, own.name),
        "image": image,
        "model_folder": compose.model_dir(settings, model),
        "record_folder": f"{settings.root}/state/calibration",
        "record_key": estimate.service_key(
            declared,
            own,
            needs.image_id(declared.images[own.image], facts),
            facts["models"].get(own.model, NO_MODEL)["digest"] if facts else None,
        ),
        "history_folder": f"{settings.root}/state/history",
        "boot_records": facts["boot_records"].get(own.name, {}) if facts else {},
        "served_model_name": own.served_model_name,
        "model": own.model,
        "port": own.port,
        "route": changes.route_of(own),
        "engine_keys_file": f"{settings.root}/gateway/{gateway_keys.ENGINE_KEYS_FILE}",
        "boot_timeout": own.boot_timeout,
        "drain": own.drain,
        "ask": deploy.ask(
            {
                "served_model_name": own.served_model_name,
                "model": own.model,
                "args": own.args,
                "accelerator": settings.accelerator,
                "smoke": known(model.smoke, own.smoke, own.args, context=model.context, vision=bool(model.vision)),
                "warmup": own.warmup,
            }
        ),
        "status": own.status,
        "state": own.state,
        "side_by_side": beside.fits,
        "side_by_side_why": beside.why,
    }
    if write:
        found |= {"facts": release.facts, "files": {**release.files, "compose.yml": write(release)}}
    return plain(found)


def about(declared: Declared, name: str, facts: Facts | None) -> About:
    """What reports tell of a service beside what it answered."""
    own = declared.services[name]
    release = (facts["releases"].get(name, NO_RELEASES)["current"] if facts else None) or ""
    return {"model": own.served_model_name, "description": own.description, "release": release}


def client(declared: Declared, name: str, reached: str) -> ClientEntry:
    """What role client_config is given of a service. reached: name or address of the host for others than itself."""
    own = declared.services[name]
    model = declared.models[own.model]
    place = programs.Address(
        declared.settings.bind_address,
        reached,
        gateway_plan.setting(declared, "https_port"),
        gateway_plan.ports_address(declared),
        gateway_plan.known_as(declared, reached),
    )
    return {
        "service": name,
        "url": programs.url(place, name, own.port, gateway_plan.host_name(declared, name)),
        "declared": programs.facts(own.served_model_name, own.args, model.context or 0, bool(model.vision)),
    }


def image_job(declared: Declared, name: str, rendered: Mapping[str, compose.Release] | None = None) -> ImageJob:
    """What role vllm_image is given of an image: its sources and proofs, and the same of the images that it is built on.

    rendered: releases of the host's services. An image with proofs has to accept the command lines of those that use it.
    """
    image = declared.images[name]
    bases = {s["build"]["base"] for s in image.sources if "build" in s}
    users = {s: r for s, r in (rendered or {}).items() if image.proofs and declared.services[s].image == name}
    return {
        "name": name,
        "ref": compose.image_ref(image),
        "sources": image.sources,
        "proofs": image.proofs,
        "services": {
            s: {"argv": r.facts["command"], "env": r.facts["environment"], "files": r.files} for s, r in users.items()
        },
        "bases": [image_job(declared, b) for b in sorted(bases)],
    }


def missing_models(declared: Declared, services: Iterable[str], facts: Facts | None) -> list[ModelJob]:
    """What role model_store is given of the models that these services need and the host does not have."""
    needed = needs.needed_models(declared, services)
    wanted = dict.fromkeys([*quantize.sources(declared, needed, facts), *needed])
    return [job for job in (model_job(declared, m, facts) for m in wanted) if not job["present"]]


def models_here(declared: Declared, services: Iterable[str], facts: Facts | None) -> list[ModelJob]:
    """What role model_store is given of the models of these services that are to be verified."""
    found = needs.models_to_verify(declared, facts, services)
    return [{**model_job(declared, m, facts), "fetch_missing": fetch} for m, fetch in found.items()]


def model_job(declared: Declared, name: str, facts: Facts | None) -> ModelJob:
    """What role model_store is given of a model."""
    model = declared.models[name]
    converters = {s["convert_with"] for s in model.sources if "convert_with" in s}
    found: ModelJob = {
        "name": name,
        "present": bool(facts and facts["models"].get(name, NO_MODEL)["present"]),
        "revision": model.revision,
        "folder": compose.model_dir(declared.settings, model),
        "sources": model.sources,
        "size_gib": model.size_gib,
        "images": {i: compose.image_ref(declared.images[i]) for i in sorted(converters)},
    }
    if quantize.made_of(model):
        found["quantize"] = quantize.job(declared, model)
    return found


def host(declared: Declared) -> HostWants:
    """What module llm_host_facts is to look for."""
    models = needs.host_models(declared)
    ports = {declared.services[s].port for s in placement.deployed(declared)}
    return {
        "root": declared.settings.root,
        "images": sorted({compose.image_ref(i) for i in declared.images.values()}),
        "models": {m: compose.model_dir(declared.settings, declared.models[m]) for m in sorted(models)},
        "texts": sorted({t for m in models if (t := quantize.text_file(declared, declared.models[m]))}),
        "services": declared.host_services,
        "ports": sorted({*ports, *gateway_plan.ports(declared)}),
        "gateway": gateway_plan.settings(declared),
        "gpus": declared.settings.accelerator == "nvidia",
    }


def to_lock(declared: Declared, services: Iterable[str]) -> dict[str, dict[str, str]]:
    """Tags and branches that these services and their gateway come from; see lock.wanted."""
    services = tuple(services)
    gateway = needs.gateway_images(declared) if services else []
    models = needs.needed_models(declared, services)
    images = [*needs.needed_images(declared, services), *quantize.images(declared, models), *gateway]
    return lock.wanted(declared, images, [*models, *quantize.sources(declared, models)])


def _ref(declared: Declared, image: str) -> str:
    """Reference of an image, "" where it is not declared."""
    return compose.image_ref(declared.images[image]) if image in declared.images else ""
