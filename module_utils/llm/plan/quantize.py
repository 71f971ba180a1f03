"""Models that a host is to make: of which other model, by which recipe, with which tools, and what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import NO_MODEL, Facts, Made, ModelState
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared, Image, Model, Settings
from ansible.module_utils.llm.gpu.nvidia import match
from ansible.module_utils.llm.models.quantize import (
    NO_MEMORY,
    REMEDY,
    SPARE,
    beyond,
    foreign,
    no_memory,
    other_text,
    refusal,
)
from ansible.module_utils.llm.models.store import size
from ansible.module_utils.llm.plan import compose
from ansible.module_utils.llm.plan.placement import deployed
from ansible.module_utils.llm.plan.types import QuantizeJob

IMAGES = {"cpu": "llm-compressor-cpu", "nvidia": "llm-compressor"}  # by accelerator of the host: names in the catalog


def made_of(model: Model) -> tuple[str, str] | None:
    """(model, recipe) that a model is made of, None for one that is fetched."""
    wanted = next((s["quantize"] for s in model.sources if "quantize" in s), None)
    return (wanted["model"], wanted["recipe"]) if wanted else None


def image(declared: Declared) -> Image | None:
    """The image in which this host quantizes."""
    return declared.images.get(IMAGES[declared.settings.accelerator])


def settled(declared: Declared) -> Declared:
    """The declaration with the mark of what each made model is made of as its revision. Branches must be locked before."""
    made = {n: dataclasses.replace(m, revision=mark(declared, m)) for n, m in declared.models.items() if made_of(m)}
    return dataclasses.replace(declared, models={**declared.models, **made})


def mark(declared: Declared, model: Model) -> str:
    """12 hex digits over source and its revision, recipe and tools. Limits of quality make no other result."""
    origin = made_of(model)
    assert origin  # noqa: S101 - asked of made models only
    source, tools = declared.models[origin[0]], image(declared)
    covered = {
        "source": {"name": source.name, "sources": list(source.sources), "revision": source.revision},
        "recipe": settings(declared, model),
        "tools": compose.image_ref(tools) if tools else "",
    }
    return names.digest(covered)[:12]


def settings(declared: Declared, model: Model) -> dict[str, object]:
    """A recipe as far as it makes the result: without name, description and limits."""
    origin = made_of(model)
    assert origin  # noqa: S101
    whole: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(declared.recipes[origin[1]])))
    return {k: v for k, v in whole.items() if k not in ("name", "description", "quality")}


def sources(declared: Declared, models: Iterable[str], facts: Facts | None = None) -> tuple[str, ...]:
    """Models that `models` are made of; with facts only those that are needed for what is not there, or damaged."""
    have = facts["models"] if facts else {}
    origins = [made_of(declared.models[m]) for m in models if not _is_whole(have.get(m, NO_MODEL))]
    return tuple(dict.fromkeys(o[0] for o in origins if o))


def _is_whole(state: ModelState) -> bool:
    return bool(state["present"] and not state["problem"])


def images(declared: Declared, models: Iterable[str], facts: Facts | None = None) -> tuple[str, ...]:
    """The image to quantize in, if any of `models` is to be made; with facts only if it is not there, or damaged."""
    tools = image(declared)
    return (tools.name,) if tools and sources(declared, models, facts) else ()


def job(declared: Declared, model: Model) -> QuantizeJob:
    """What module llm_quantize takes, beside name and folder."""
    origin = made_of(model)
    assert origin  # noqa: S101
    tools = image(declared)
    return {
        "source": {"name": origin[0], "folder": compose.model_dir(declared.settings, declared.models[origin[0]])},
        "recipe": {
            "name": origin[1],
            **settings(declared, model),
            "quality": dict(declared.recipes[origin[1]].quality),
        },
        "image": compose.image_ref(tools) if tools else "",
        "devices": devices(declared.settings, _gpu(declared, model)),
    }


def _gpu(declared: Declared, model: Model) -> int | str | None:
    """The GPU that is to serve it, which is one that may be taken for it."""
    gpus = [
        g for s in deployed(declared) if declared.services[s].model == model.name for g in declared.services[s].gpus
    ]
    return gpus[0] if gpus and declared.settings.accelerator == "nvidia" else None


def devices(settings: Settings, gpu: int | str | None) -> list[str]:
    """Docker's arguments for one GPU."""
    if gpu is None:
        return []
    return ["--device", f"nvidia.com/gpu={gpu}"] if settings.gpu_runtime == "cdi" else ["--gpus", f'"device={gpu}"']


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong.


def judge(declared: Declared, model: Model) -> list[Finding]:
    """Findings about a made model, from the declaration alone."""
    if not made_of(model) or image(declared):
        return []
    wanted = IMAGES[declared.settings.accelerator]
    message, remedy = "is needed to quantize on this host, and is not declared", "Take it back into the catalog"
    return [Finding("quantize-image", "error", f"llm_images.{wanted}", message, remedy)]


def findings(declared: Declared, facts: Facts, models: Iterable[str]) -> list[Finding]:
    """Findings about those of `models` that are made: what is there is something else, or not good enough; or no room."""
    found = []
    for name in models:
        model = declared.models[name]
        origin = made_of(model)
        state = facts["models"].get(name, NO_MODEL)
        if not origin or state["problem"]:
            continue
        key, folder = f"llm_models.{name}", compose.model_dir(declared.settings, model)
        limits = declared.recipes[origin[1]].quality
        made = state.get("made")
        if state["present"]:
            problem = foreign(made, model.revision)
            if problem or not made:
                remedy = "Remove the folder, and it is made anew"
                found.append(Finding("model-foreign", "error", key, f"what lies in {folder} {problem}", remedy))
            elif why := beyond(made["quality"], limits):
                message = f"lost more by `{origin[1]}` than llm_recipes.{origin[1]}.quality allows: {'; '.join(why)}"
                found.append(Finding("model-quality", "error", key, message, "Raise the limits, or change the recipe"))
            elif _outdated(made, facts["models"].get(origin[0], NO_MODEL)):
                message = f"was made of other bytes of {origin[0]} than those that lie on the host now"
                remedy = f"To have it made anew, remove {folder}; else it stays as it is"
                found.append(Finding("model-source", "warn", key, message, remedy))
        elif (aside := state.get("refused")) and (why := beyond(aside["quality"], limits)):
            found.append(Finding("model-refused", "error", key, refusal(origin[1], why, state["aside"]), REMEDY))
        elif not aside:
            found += _text(declared, facts, model) + _room(declared, facts, model)
    return found


def text_file(declared: Declared, model: Model) -> str:
    """File on the host that a made model is calibrated and measured with; "" where it is a data set, or the model is fetched."""
    origin = made_of(model)
    return str(declared.recipes[origin[1]].dataset.get("file", "")) if origin else ""


def _text(declared: Declared, facts: Facts, model: Model) -> list[Finding]:
    """The text of a model that is still to be made: found before its source is fetched."""
    file, origin = text_file(declared, model), made_of(model)
    problem = facts["texts"].get(file)
    if not problem or not origin:
        return []
    return [
        Finding(
            "quantize-text", "error", f"llm_models.{model.name}", f"the text {file} {problem}", other_text(origin[1])
        )
    ]


def _outdated(made: Made, source: ModelState) -> bool:
    """Whether a model's source has other bytes now; a source that is not there, or damaged, says nothing."""
    return bool(source["digest"] and made.get("source_digest", source["digest"]) != source["digest"])


def _room(declared: Declared, facts: Facts, model: Model) -> list[Finding]:
    """Memory for what is still to be made; the module knows more exactly, once the source is there."""
    origin = made_of(model)
    source = declared.models[origin[0]] if origin else model
    key, need = f"llm_models.{model.name}", int(source.size_gib * 1.5 * GIB) + SPARE
    free = facts["memory"]["available"]
    if free is not None and need > free:
        return [Finding("quantize-memory", "error", key, no_memory(need, free), NO_MEMORY)]
    gpu = _gpu(declared, model)
    seen = facts["gpu"]["gpus"] if facts["gpu"] else []
    entry = next((g for g in declared.gpus if gpu in (g.index, g.uuid)), None)
    one = match(entry, seen) if entry else None
    need = int(source.size_gib * 1.1 * GIB) + SPARE
    if one and one["free"] is not None and one["free"] < need:
        message = f"GPU {gpu} has {size(one['free'])} free, and quantizing {source.name} takes about {size(need)} of it"
        remedy = "Stop what serves there (playbooks/stop.yml --tags SERVICE), and run again"
        return [Finding("quantize-gpu", "error", key, message, remedy)]
    return []
