"""What differs between the declaration and the host, and what a run does about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.declare.facts import NO_RELEASES, Attempt, Facts, Reason, Releases, Route, Way
from ansible.module_utils.llm.declare.objects import Declared, Service
from ansible.module_utils.llm.plan import compose, needs, placement
from ansible.module_utils.llm.plan.placement import deployed
from ansible.module_utils.llm.plan.types import ImageJob, ModelJob, StatedContainer, Work


def fingerprint(key: str) -> str:
    """Short hash by which a declared key is compared with the one on the host; keys are long and random."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def releases(
    declared: Declared, facts: Facts | None, plugins: Mapping[str, Mapping[str, str]]
) -> dict[str, compose.Release]:
    """Release of every service of the host; parts that only the host knows are marked as not there yet."""
    found, gateway_key = {}, facts["gateway"]["engine_key"] if facts else ""
    for name in declared.host_services:
        service = declared.services[name]
        model = facts["models"].get(service.model) if facts else None
        image_id = needs.image_id(declared.images[service.image], facts)
        found[name] = compose.release(
            declared, service, image_id, model["digest"] if model else None, plugins.get(name), gateway_key
        )
    return found


def service_work(
    facts: Facts,
    services: Iterable[str],
    rendered: Mapping[str, compose.Release],
    keys: Mapping[str, str],
) -> dict[str, list[Reason]]:
    """Services to (re)deploy, with the reasons: service -> [{name, current, desired}]. Unchanged ones are left out."""
    found = {}
    for name in services:
        release, current = rendered[name], facts["releases"].get(name, NO_RELEASES)
        if current["current"] != release.hash:
            why = compose.reasons(current["facts"], release.facts)
        else:
            why = _drift(facts, release, current)
        if name in keys and facts["keys"].get(name) not in (None, fingerprint(keys[name])):
            why.append({"name": "api key", "current": "another one", "desired": "the one given"})
        elif facts["keys"].get(name) is None and not why:
            why.append({"name": "api key", "current": None, "desired": "present"})
        if name in facts["gateway"]["old_engine_keys"] and not why:
            why.append({"name": "key between gateway and engine", "current": "an older one", "desired": "the newest"})
        if why:
            found[name] = why
    return found


def _drift(facts: Facts, release: compose.Release, current: Releases) -> list[Reason]:
    """Differences between what the current release should be and what is there."""
    why: list[Reason] = []
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
    elif current["started"] and container["made_of"] != current["started"]:
        why.append({"name": "container", "current": "made of other settings", "desired": "as rendered"})
    return why


def to_prove(facts: Facts, services: Iterable[str], rendered: Mapping[str, compose.Release]) -> tuple[str, ...]:
    """Services whose current release has no passing verdict yet, or none since an attempt to deploy them failed."""
    found = facts["releases"]
    return tuple(
        s
        for s in services
        if not found.get(s, NO_RELEASES)["proven"]
        or found[s]["current"] != rendered[s].hash
        or failed_attempt(facts, s, rendered[s].hash)
    )


def failed_attempt(facts: Facts, service: str, release: str) -> Attempt | None:
    """The last attempt to deploy a service that failed (attempt of host/read.py), until a later one succeeds; None without one.

    That is a release that was made current since, or a run that found nothing to deploy and got right answers: they prove nothing
    of the release that failed, so its attempt is reported for as long as that one is declared. release: the declared one.
    """
    found = facts["releases"].get(service, NO_RELEASES)
    failed = found["attempt"]
    waits = failed and failed["release"] == release != found["current"]
    return failed if failed and (waits or not failed["proven_since"]) else None


def to_stop(
    declared: Declared, facts: Facts, services: Iterable[str], deploying: Iterable[str] = ()
) -> list[StatedContainer]:
    """Containers of selected services that are not to run, each with the state that it is to have.

    Those that are declared stopped or absent, and those on standby that no service of `deploying` displaces.
    """
    services = set(services)
    found: list[StatedContainer] = []
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
    work: Work | None,
    *,
    images: Iterable[ImageJob] = (),
    models: Iterable[ModelJob] = (),
    prune: bool = False,
    check: bool = False,
) -> list[str]:
    """Parts of a run that have something to do: images, models, services, verify, and cleanup (what is to be removed last).

    One condition leaves out a part with all its tasks; each task costs a process of the controller even when it is skipped.
    Host and gateway are no such parts: their roles decide. stages: those chosen. work: what differs; None when the host has
    not been read, and any chosen stage may have something to do. images, models: those to be made.
    """
    chosen = {*stages}
    if work is None:
        return sorted(chosen | {"services"})  # which begins by reading the host
    made = {"images": bool([*images]), "models": bool([*models])}
    needed = {part for part in made if made[part] and part in chosen}
    differs = work["preflight"] or work["stop"] or work["orphans"] or work["removed"] or work["deploy"]
    if any(made.values()) or ("services" in chosen and differs):
        needed.add("services")  # new images and models change what differs, so that the host is read again there
    if ("services" in chosen and work["stale"]) or (prune and chosen & {"images", "models"}):
        needed.add("cleanup")
    if "verify" in chosen and work["prove"] and not check:
        needed.add("verify")
    return sorted(needed)


def routes(declared: Declared, facts: Facts, upcoming: Mapping[str, str] | None = None) -> list[Route]:
    """What the gateway serves: one entry a service that is to run, in order of ports.

    [{service, port, container, model, hostname, at_once}], and progress_timeout where it is declared;
    container is that of the current release, "" while there is none (the gateway answers 503). Who was stopped on purpose, and
    was not started since, has none and `stopped`: a run that is for other services leaves it at that.
    upcoming: service -> release that is about to become current, to predict.
    """
    stopped = set(facts["gateway"]["stopped"]).difference(upcoming or ())
    running = {c["name"] for c in facts["containers"] if c["state"] == "running"}
    found: list[Route] = []
    for name in deployed(declared):
        current = (upcoming or {}).get(name) or facts["releases"].get(name, NO_RELEASES)["current"]
        container = names.container_name(name, current) if current else ""
        ended = name in stopped and container not in running
        route: Route = {
            "service": name,
            "container": "" if ended else container,
            **route_of(declared.services[name]),
        }
        if ended:
            route["stopped"] = True
        found.append(route)
    return sorted(found, key=lambda r: r["port"])


def route_of(service: Service) -> Way:
    """What of a service decides how the gateway leads to it.

    at_once: what its engine works on at a time, 0 if it decides. progress_timeout: see `liveness`; only where it is declared.
    """
    at_once = service.flag("max-num-seqs", 0)
    found: Way = {
        "port": service.port,
        "model": service.served_model_name,
        "hostname": service.hostname,
        "at_once": at_once if isinstance(at_once, int) else 0,
    }
    if "progress_timeout" in service.liveness:
        found["progress_timeout"] = service.liveness["progress_timeout"]
    return found
