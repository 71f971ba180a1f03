"""Images and models that services need, and those that nothing needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ansible.module_utils.llm.base.names import ACME_IMAGE, GATEWAY_IMAGE
from ansible.module_utils.llm.declare.facts import NO_MODEL, Facts, OwnedImage, StoredModel
from ansible.module_utils.llm.declare.objects import Declared, Image
from ansible.module_utils.llm.images import images
from ansible.module_utils.llm.plan import compose, placement
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.types import ImageName


def needed_images(declared: Declared, services: Iterable[str]) -> tuple[str, ...]:
    """Images that the services run, in catalog order; bases of builds are made on demand."""
    wanted = {declared.services[s].image for s in services}
    return tuple(i for i in declared.images if i in wanted)


def host_models(declared: Declared) -> tuple[str, ...]:
    """Models that services of the host have, whatever their status, and those that they are made of."""
    found = needed_models(declared, declared.host_services)
    return tuple(dict.fromkeys([*found, *quantize_plan.sources(declared, found)]))


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
    have = facts["models"] if facts else {}
    missing = {}
    if facts and declared.settings.repair:
        damaged = [m for m in needed if have.get(m, NO_MODEL)["problem"]]
        missing = {s: True for s in quantize_plan.sources(declared, damaged) if not have.get(s, NO_MODEL)["present"]}
    there = {s: False for s in quantize_plan.sources(declared, needed) if not facts or have.get(s, NO_MODEL)["present"]}
    return {**there, **missing, **{m: missing.get(m, False) for m in needed}}


def images_to_make(declared: Declared, facts: Facts | None, services: Iterable[str]) -> tuple[str, ...]:
    """Of `services` and their gateway: images that are not there, or not proven to hold what is declared of them.

    With the one to quantize in, while a model of theirs is still to be made.
    """
    services = tuple(services)
    wanted = [*needed_images(declared, services)]
    wanted += quantize_plan.images(declared, needed_models(declared, services), facts)
    wanted += gateway_images(declared) if wanted else []
    return tuple(dict.fromkeys(i for i in wanted if not is_made(declared.images[i], facts)))


def gateway_images(declared: Declared) -> list[str]:
    """Images of the gateway: the gateway's, and its ACME client's where it has one."""
    wanted = (GATEWAY_IMAGE, *([ACME_IMAGE] if gateway_plan.acme_request(declared) else []))
    return [i for i in wanted if i in declared.images]


def is_made(image: Image, facts: Facts | None) -> bool:
    """Whether an image is on the host, and proven to hold what is declared of it."""
    found = image_id(image, facts)
    record = facts["image_records"].get(compose.image_ref(image)) if facts else None
    return bool(found) and images.is_proven(str(found), image.proofs, record)


def _bases(declared: Declared, image: str) -> set[str]:
    """Images that `image` may be built on, however far down."""
    found: set[str] = set()
    for source in declared.images[image].sources:
        if "build" in source:
            base = source["build"]["base"]
            found |= {base, *_bases(declared, base)}
    return found


def images_to_remove(declared: Declared, facts: Facts, upcoming: Iterable[str] = ()) -> list[ImageName]:
    """Image names of ours that nothing needs.

    Needed are images of the current and the previous release of every service on the host, of all services that it is to
    run or may go back to, of the gateway, with what they are built on, and those that a container uses. upcoming:
    services that are about to be replaced, to predict: what is previous now is not kept then.
    """
    wanted = {declared.services[s].image for s in declared.host_services}
    wanted |= {*gateway_images(declared)}
    wanted |= set(quantize_plan.images(declared, host_models(declared)))
    wanted |= {base for image in wanted for base in _bases(declared, image)}
    needed = {str(image_id(declared.images[i], facts)) for i in wanted}
    soon = set(upcoming)
    for service, kept in facts["release_images"].items():
        needed |= {image for which, image in kept.items() if service not in soon or which == "current"}
    return unneeded_images(facts["owned_images"], needed, [o["container"] for o in placement.orphans(declared, facts)])


def unneeded_images(owned: Iterable[OwnedImage], needed: Iterable[str], leaving: Iterable[str] = ()) -> list[ImageName]:
    """Names to remove, of those that this project made or brought.

    needed: ids. leaving: containers that are about to be removed, which need their image no more. All names of an image that is
    needed stay, since removing one of several frees nothing.
    """
    listed, gone = list(owned), {*leaving}
    kept = {*needed} | {o["id"] for o in listed if {*o["containers"]} - gone}
    return [{"name": o["name"], "id": o["id"], "size": o["size"]} for o in listed if o["id"] not in kept]


def models_to_remove(declared: Declared, facts: Facts) -> list[StoredModel]:
    """Folders of models that neither the declaration nor a release on the host needs."""
    wanted = [compose.model_dir(declared.settings, declared.models[m]) for m in host_models(declared)]
    return unneeded_models(facts["stored_models"], wanted, facts["release_models"])


def unneeded_models(found: Iterable[StoredModel], declared: Iterable[str], kept: Iterable[str]) -> list[StoredModel]:
    """Folders of models that nothing needs. declared: those of the host's models; kept: see store.in_releases.

    What is on its way is needed as long as its model is declared and not there yet.
    """
    found, declared, kept = list(found), set(declared), set(kept)
    whole = {e["folder"] for e in found if not e["partial"]}
    left = []
    for entry in found:
        final = str(PurePosixPath(entry["folder"]).with_name(entry["revision"]))
        needed = final in declared or (f"{entry['name']}/{entry['revision']}" in kept and not entry["partial"])
        if not needed or (entry["partial"] and final in whole):
            left.append(entry)
    return left


def missing(declared: Declared, facts: Facts, wanted: Iterable[Image]) -> list[Image]:
    """Images that are not there, with the bases that those need in any case."""
    found = list(wanted)
    for image in found:  # grows while it is read
        bases = {s["build"]["base"] if "build" in s else "" for s in image.sources}
        if len(bases) == 1 and (base := bases.pop()):
            more = declared.images[base]
            if more not in found and not image_id(more, facts):
                found.append(more)
    return found


def image_id(image: Image, facts: Facts | None) -> str | None:
    """Id of an image on the host, None while it is not there."""
    return facts["images"].get(compose.image_ref(image)) if facts else None
