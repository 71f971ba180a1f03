"""Declarations to typed objects: the shape of images, models, services, GPUs and settings, and what is wrong with them.

Nothing here does I/O. Every problem becomes a `Finding` that names what, where (key and, if known, file) and what to do;
a declaration with findings of severity `error` yields no object, so later code never sees a half-valid one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.base.spelling import did_you_mean
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared, Gpu, Image, Model, Recipe, Service, Settings
from ansible.module_utils.llm.declare.schema import Schema, _mistyped, schema_findings, value_findings
from ansible.module_utils.llm.declare.values import ListOf, name, number, said, size_bytes
from ansible.module_utils.llm.declare.variables import (
    _GPU,
    _IMAGE,
    _MODEL,
    _RECIPE,
    _SERVICE,
    OTHERS,
    OWNED_ENV,
    OWNED_FLAGS,
    SETTINGS,
    VARIABLES,
    _recipe_problem,
)


def merge(ours: Any, theirs: Any) -> Any:
    """`theirs` over `ours`: mappings merge recursively, everything else (lists too) is replaced."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = [*ours, *(k for k in theirs if k not in ours)]
        return {k: merge(ours[k], theirs[k]) if k in ours and k in theirs else ours.get(k, theirs.get(k)) for k in keys}
    return theirs


def catalog(kind: str, ours: Any, theirs: Any) -> tuple[Any, list[Finding]]:
    """`theirs` merged over `ours`, and findings of what is no mapping; a variable with nothing below it counts as empty.

    Without this, `false` or `0` in place of a catalog would count as an empty one.
    """
    found, given = [], []
    for variable, value in ((f"llm_{kind}", ours), (f"llm_{kind}_custom", theirs)):
        if value is not None and not isinstance(value, Mapping):
            found.append(_mistyped(variable, f"must be a mapping by name, got {said(value)}", "Write names below it"))
        given.append(value if isinstance(value, Mapping) else {})
    return merge(*given), found


def from_command_line(key: str, value: Any) -> Any:
    """The value of a setting as it is wanted, where `-e NAME=VALUE` gave text."""
    if key in ("offline", "prune", "repair", "supervisor") and isinstance(value, str):
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(value.lower(), value)
    if key == "engine_uid" and isinstance(value, str) and value.isdigit():
        return int(value)
    if key in ("force", "switch") and isinstance(value, str):
        return [word for word in value.replace(",", " ").split() if word]
    return value


def service_keys(given: Any, services: Iterable[str]) -> tuple[dict[str, str], list[Finding]]:
    """Keys of services by name, and findings; the keys themselves are in no message."""
    if given is None:
        return {}, []
    variable = "llm_service_keys"
    if not isinstance(given, Mapping):  # what it is instead is not shown: it may hold keys
        message, remedy = "must be a mapping of service to key", "Write names of services below it"
        return {}, [Finding("mistyped", "error", variable, message, remedy)]
    known, found = list(services), []
    for service, key in given.items():
        if service not in known:
            message, remedy = "names no service", did_you_mean(service, known)
            found.append(Finding("unknown-service", "error", f"{variable}.{service}", message, remedy))
        elif problem := values.secret(key):
            remedy = "Quote it; YAML makes a boolean of yes, a number of digits"
            found.append(Finding("mistyped", "error", f"{variable}.{service}", problem, remedy))
    return {} if found else dict(given), found


def variable_findings(given: Mapping[str, Any]) -> list[Finding]:
    """Findings of OTHERS, by full name; empty text and nothing stand for what is not given."""
    found = []
    for variable in OTHERS:
        if (value := given.get(variable)) is not None and value != "":
            found += value_findings(value, VARIABLES[variable].check, variable)
    return found


def _service_findings(entry: Mapping[str, Any], key: str) -> list[Finding]:
    found = []
    plugins = entry.get("plugins") or {}
    files = [str(plugins[k]) for k in ("tool_parser", "reasoning_parser", "chat_template") if k in plugins]
    files += dict.fromkeys(str(m).rpartition(":")[0] for m in plugins.get("middleware", ()))
    for what, inside, where in (
        ("file name", [f.rpartition("/")[2] for f in files], "plugins"),
        ("place in the container", [v.split(":")[1] for v in entry.get("volumes", ())], "volumes"),
    ):
        if twice := next((x for x in inside if inside.count(x) > 1), ""):
            message = f"has two entries with the {what} `{twice}`, and the second would cover the first"
            found.append(Finding("covered", "error", f"{key}.{where}", message, "Rename or remove one"))
    for owned, given, what in ((OWNED_FLAGS, "args", "flag"), (OWNED_ENV, "env", "variable")):
        for used in entry.get(given) or {}:
            canonical = used.replace("_", "-") if given == "args" else used
            if canonical in owned:
                message = f"is a {what} that does not belong here: {owned[canonical]}"
                found.append(Finding(f"owned-{what}", "error", f"{key}.{given}.{used}", message, "Remove it"))
            elif given == "args" and "_" in used:
                remedy = f"Write `{canonical}`"
                found.append(
                    Finding("flag-spelling", "error", f"{key}.args.{used}", "is not how the engine spells it", remedy)
                )
    utilization = (entry.get("args") or {}).get("gpu-memory-utilization")
    # Rules judge its range; what is no number at all cannot be added up.
    if utilization is not None and number(-1e9, 1e9)(utilization):
        problem = f"must be a number, got {said(utilization)}"
        remedy = "It is a share of a GPU's memory, such as 0.9"
        found.append(Finding("mistyped", "error", f"{key}.args.gpu-memory-utilization", problem, remedy))
    if entry.get("status") in ("archived", "rejected") and not entry.get("reason"):
        found.append(
            Finding("reason-missing", "error", f"{key}.reason", f"is missing for status {entry['status']}", "Say why")
        )
    return found


def _recipe_findings(entry: Mapping[str, Any], key: str) -> list[Finding]:
    found = []
    if problem := _recipe_problem(entry):
        found.append(_mistyped(key, problem, "Remove it"))
    if "hub" in entry["dataset"] and "match" not in entry["dataset"]:
        message = "is missing: a data set has many files"
        found.append(
            Finding("missing-key", "error", f"{key}.dataset.match", message, "Name a file of it, or a pattern")
        )
    return found


def _catalog(
    variable: str, catalog: Any, shape: Schema, extra: Callable[[Mapping[str, Any], str], list[Finding]] | None = None
) -> tuple[dict[str, Mapping[str, Any]], list[Finding]]:
    """Entries that are well-formed, and the findings of those that are not."""
    if not isinstance(catalog, Mapping):
        return {}, [
            Finding(
                "mistyped",
                "error",
                variable,
                f"must be a mapping by name, got {said(catalog)}",
                "Write names below it",
            )
        ]
    good: dict[str, Mapping[str, Any]] = {}
    found: list[Finding] = []
    for entry_name, entry in catalog.items():
        key = f"{variable}.{entry_name}"
        problems = []
        if problem := name(entry_name):
            problems.append(Finding("bad-name", "error", key, f"its name {problem}", "Rename it"))
        problems += schema_findings(entry, shape, key)
        if not problems and extra:
            problems += extra(entry, key)
        found += problems
        if not problems:
            good[str(entry_name)] = entry
    return good, found


def parse(raw: Mapping[str, Any]) -> tuple[Declared | None, list[Finding]]:
    """The declaration of one host from its variables.

    `raw`: images, models, recipes, services (merged catalogs), host_services, gpus, settings (without the `llm_` prefix), lock.
    Returns the typed declaration, or None with at least one finding of severity error.
    """
    images, found = _catalog("llm_images", raw.get("images", {}), _IMAGE)
    models, more = _catalog("llm_models", raw.get("models", {}), _MODEL)
    found += more
    recipes, more = _catalog("llm_recipes", raw.get("recipes", {}), _RECIPE, _recipe_findings)
    found += more
    services, more = _catalog("llm_services", raw.get("services", {}), _SERVICE, _service_findings)
    found += more

    settings = raw.get("settings", {})
    for key, value in settings.items():
        if problem := SETTINGS[key].check(value):
            found.append(Finding("mistyped", "error", f"llm_{key}", problem, f"Correct `llm_{key}`"))
    gpus = raw.get("gpus", [])
    if not isinstance(gpus, (list, tuple)):
        found.append(
            Finding("mistyped", "error", "llm_host_gpus", f"must be a list, got {said(gpus)}", "List the GPUs")
        )
        gpus = []
    for position, gpu in enumerate(gpus):
        found += schema_findings(gpu, _GPU, f"llm_host_gpus.{position}")
    found += _gpus_twice(gpus)
    host_services = raw.get("host_services", [])
    if problem := ListOf(name)(host_services):
        found.append(Finding("mistyped", "error", "llm_host_services", problem, "List names of services"))
        host_services = []

    remedy = "Correct it, or remove the lock and run playbooks/lock.yml"
    locked = value_findings(raw.get("lock", {}), VARIABLES["llm_lock"].check, "llm_lock")
    found += [dataclasses.replace(f, remedy=remedy) for f in locked]
    found += _reference_findings(raw, images, models, services, host_services, settings)
    if any(f.severity == "error" for f in found):
        return None, found
    return (
        Declared(
            images={
                n: Image(n, tuple(e["sources"]), on=_taken_over(n, images), **_rest(e, "sources"))
                for n, e in images.items()
            },
            models={n: Model(n, tuple(e["sources"]), **_rest(e, "sources")) for n, e in models.items()},
            services={n: _service(n, e) for n, e in services.items()},
            host_services=tuple(str(n) for n in host_services),
            gpus=tuple(Gpu(g["index"], g["model"], size_bytes(g["memory"]), g.get("uuid", "")) for g in gpus),
            settings=Settings(**_tuples(settings)),
            recipes={n: Recipe(n, **_tuples(e)) for n, e in recipes.items()},
        ),
        found,
    )


def _gpus_twice(gpus: Iterable[Any]) -> list[Finding]:
    """GPUs that are listed more than once; entries that are no mapping are found elsewhere."""
    found, seen = [], set()
    for position, gpu in enumerate(gpus):
        for part in ("index", "uuid"):
            value = gpu.get(part) if isinstance(gpu, Mapping) else None
            if isinstance(value, (int, str)) and (part, value) in seen:
                message = f"is {value}, which another GPU of this host has"
                found.append(_mistyped(f"llm_host_gpus.{position}.{part}", message, "List each GPU once"))
            if isinstance(value, (int, str)):
                seen.add((part, value))
    return found


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in entry.items()}


def _rest(entry: Mapping[str, Any], *without: str) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in without}


def _service(service: str, entry: Mapping[str, Any]) -> Service:
    values = _tuples(entry)
    values.setdefault("served_model_name", entry["model"])
    values["env"] = {k: str(v) for k, v in (entry.get("env") or {}).items()}
    return Service(name=service, **values)


def _unknown(key: str, what: str, used: str, known: Iterable[str]) -> Finding:
    return Finding(
        f"unknown-{what}", "error", key, f"names the {what} `{used}`, which is not declared", did_you_mean(used, known)
    )


def _reference_findings(
    raw: Mapping[str, Any],
    images: Mapping[str, Any],
    models: Mapping[str, Any],
    services: Mapping[str, Any],
    host_services: Iterable[str],
    settings: Mapping[str, Any],
) -> list[Finding]:
    """References between declarations that lead nowhere. Names count as known even if their own entry is broken."""
    # A catalog that is no mapping has been found already.
    known = {
        kind: list(raw[kind]) if isinstance(raw.get(kind), Mapping) else []
        for kind in ("images", "models", "recipes", "services")
    }
    found = []
    for image, entry in images.items():
        for position, source in enumerate(entry["sources"]):
            base = (source.get("build") or {}).get("base")
            if base is not None and base not in known["images"]:
                found.append(
                    _unknown(f"llm_images.{image}.sources.{position}.build.base", "image", base, known["images"])
                )
            elif base is not None and image in _bases(base, images):
                key = f"llm_images.{image}.sources.{position}.build.base"
                found.append(Finding("image-cycle", "error", key, f"leads back to `{image}`", "Choose another base"))
    for model, entry in models.items():
        for position, source in enumerate(entry["sources"]):
            key = f"llm_models.{model}.sources.{position}"
            maker = source.get("convert_with")
            if maker is not None and maker not in known["images"]:
                found.append(_unknown(f"{key}.convert_with", "image", maker, known["images"]))
            if "quantize" in source:
                found += _quantize_findings(f"{key}.quantize", source["quantize"], models, known)
        if len(entry["sources"]) > 1 and any("quantize" in s for s in entry["sources"]):
            message = "has `quantize` beside other sources: what is made and what is fetched are different models"
            remedy = "Leave one of them, or declare two models"
            found.append(Finding("quantize-beside", "error", f"llm_models.{model}.sources", message, remedy))
    for service, entry in services.items():
        for kind in ("image", "model"):
            if entry[kind] not in known[f"{kind}s"]:
                found.append(_unknown(f"llm_services.{service}.{kind}", kind, entry[kind], known[f"{kind}s"]))
    seen: set[str] = set()
    for service in host_services:
        if service not in known["services"]:
            found.append(_unknown("llm_host_services", "service", service, known["services"]))
        if service in seen:
            found.append(
                Finding("listed-twice", "error", "llm_host_services", f"lists `{service}` twice", "Remove one")
            )
        seen.add(service)
    for key in ("force", "switch"):
        named = settings.get(key, ())
        for service in () if SETTINGS[key].check(named) else dict.fromkeys(named):
            if service not in known["services"]:
                found.append(_unknown(f"llm_{key}", "service", service, known["services"]))
    return found


def _quantize_findings(
    key: str, wanted: Mapping[str, Any], models: Mapping[str, Any], known: Mapping[str, list[str]]
) -> list[Finding]:
    """Findings about a model that is to be made of another by a recipe."""
    found = []
    for part, kind in (("model", "models"), ("recipe", "recipes")):
        if wanted[part] not in known[kind]:
            found.append(_unknown(f"{key}.{part}", part, wanted[part], known[kind]))
    origin = models.get(wanted["model"], {})
    if origin.get("quantization", "none") != "none" or any("quantize" in s for s in origin.get("sources", ())):
        message = f"names `{wanted['model']}`, which is quantized already"
        found.append(
            Finding("quantize-twice", "error", f"{key}.model", message, "Name the model in its full precision")
        )
    return found


def _taken_over(image: str, images: Mapping[str, Any]) -> dict[str, Any]:
    """Recipes of the bases that builds of `image` check and patch instead of only starting from them."""
    builds = [s["build"] for s in images[image]["sources"] if "build" in s]
    bases = {b["base"] for b in builds if b.get("require") or b.get("patches")}
    return {b: {"sources": list(images[b]["sources"]), "on": _taken_over(b, images)} for b in sorted(bases)}


def _bases(image: str, images: Mapping[str, Any]) -> set[str]:
    """All images that `image` is built on, itself included."""
    seen: set[str] = set()
    todo = [image]
    while todo:
        current = todo.pop()
        if current in seen or current not in images:
            continue
        seen.add(current)
        todo += [s["build"]["base"] for s in images[current]["sources"] if "build" in s]
    return seen
