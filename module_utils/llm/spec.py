"""Declarations to typed objects: the shape of images, models, services, GPUs and settings, and what is wrong with them.

Nothing here does I/O. Every problem becomes a `Finding` that names what, where (key and, if known, file) and what to do;
a declaration with findings of severity `error` yields no object, so later code never sees a half-valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
FLAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b)?", re.IGNORECASE)
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
GIB = 2**30

STATUSES = ("active", "fallback", "archived", "rejected")
STATES = ("present", "stopped", "absent")
QUANTIZATIONS = ("none", "awq", "gptq", "fp8")

# Flags that other keys of a service (or this project) own, with what to write instead.
OWNED_FLAGS = {
    "model": "the service's `model` key names it",
    "served-model-name": "use the service's `served_model_name` key",
    "host": "engines listen on their own network only; the gateway owns the address",
    "port": "use the service's `port` key",
    "uds": "the gateway reaches the engine over the network",
    "config": "it carries the engine's key",
    "api-key": "keys are made on the host or come from `llm_service_keys`, never from a command line",
    "quantization": "the engine reads it from the checkpoint",
    "tool-parser-plugin": "use `plugins.tool_parser`",
    "reasoning-parser-plugin": "use `plugins.reasoning_parser`",
    "chat-template": "use `plugins.chat_template`",
    "middleware": "use `plugins.middleware`",
}
OWNED_ENV = {
    "VLLM_API_KEY": "keys are made on the host or come from `llm_service_keys`, never from the environment",
    "HF_TOKEN": "engines serve offline; the token is only used while a model is fetched",
    "HUGGING_FACE_HUB_TOKEN": "engines serve offline; the token is only used while a model is fetched",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing. `severity`: error (refuses), warn, info. `key`: dotted path of variables."""

    id: str
    severity: str
    key: str
    message: str
    remedy: str
    file: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON shape of plan.json, with `file` only where it is known."""
        shown = dataclasses.asdict(self)
        return shown if self.file else {k: v for k, v in shown.items() if k != "file"}

    def text(self) -> str:
        """One line for a person: where, what, what to do."""
        place = f"{self.key} ({self.file})" if self.file else self.key
        return f"{place}: {self.message}. {self.remedy}"


@dataclasses.dataclass(frozen=True)
class Image:
    """A container image: where it comes from (`sources`, tried in order) and which engine it carries.

    proofs: what must hold inside it before it gets its name. on: recipes of the bases that builds take over as they are
    (those with `require` or `patches`), by name; such an image changes with its base.
    """

    name: str
    sources: tuple[Mapping[str, Any], ...]
    accelerator: str = ""
    engine: Mapping[str, str] = dataclasses.field(default_factory=dict)
    proofs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size_gib: float = 0.0
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model: where it comes from, its revision, and the facts that its makers state."""

    name: str
    sources: tuple[Mapping[str, Any], ...]
    revision: str = "main"
    description: str = ""
    license: str = ""
    architecture: str = ""
    family: str = ""
    size_gib: float = 0.0
    context: int = 0
    vision: bool = False
    thinking: bool = False
    quantization: str = "none"


@dataclasses.dataclass(frozen=True)
class Service:
    """A service: one engine with one model on declared GPUs, behind one port of the gateway."""

    name: str
    image: str
    model: str
    port: int
    served_model_name: str
    gpus: tuple[int | str, ...] = ()
    hostname: str = ""
    status: str = "active"
    reason: str = ""
    state: str = "present"
    description: str = ""
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    plugins: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    boot_timeout: int = 1800
    stop_grace: int = 60
    drain: int = 30
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warmup: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def flag(self, name: str, default: Any = None) -> Any:
        """The value of one engine flag, or the engine's own default as given by the caller."""
        return self.args.get(name, default)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU that a host declares. `memory`: bytes."""

    index: int
    model: str
    memory: int
    uuid: str = ""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a host. Each is the inventory variable `llm_<name>`."""

    root: str = "/opt/llm"
    accelerator: str = "nvidia"
    gpu_runtime: str = "nvidia"
    bind_address: str = "127.0.0.1"
    domain: str = ""
    engine_uid: int = 64000
    wheelhouse: str = ""
    ca_bundle: str = ""
    offline: bool = False
    prune: bool = False
    force: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Declared:
    """All that is declared for one host, valid on its own terms."""

    images: Mapping[str, Image]
    models: Mapping[str, Model]
    services: Mapping[str, Service]
    host_services: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    settings: Settings


# ---------------------------------------------------------------------------------------------------------------------
# Checks of one value. Each returns what is wrong as text ("" when nothing is).

Check = Callable[[Any], str]


def _said(value: Any) -> str:
    text = repr(value if not isinstance(value, str) else str(value))
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({_kind(value)})"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "whole number"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, (list, tuple)) else type(value).__name__


def text(value: Any) -> str:
    """Any non-empty text."""
    return "" if isinstance(value, str) and value.strip() else f"must be text, got {_said(value)}"


def name(value: Any) -> str:
    """A name: lower case letters, digits and dashes, at most 48 (container and host names derive from it)."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return ""
    return f"must be lower case letters, digits and dashes, at most 48, got {_said(value)}"


def boolean(value: Any) -> str:
    """Either true or false."""
    return "" if isinstance(value, bool) else f"must be true or false, got {_said(value)}"


def whole(low: int, high: int) -> Check:
    """A whole number in [low, high]."""

    def check(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return ""
        return f"must be a whole number from {low} to {high}, got {_said(value)}"

    return check


def number(low: float, high: float) -> Check:
    """A number in [low, high]."""

    def check(value: Any) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return ""
        return f"must be a number from {low:g} to {high:g}, got {_said(value)}"

    return check


def one_of(*allowed: str) -> Check:
    """One of the given words."""

    def check(value: Any) -> str:
        return "" if value in allowed else f"must be one of {', '.join(allowed)}, got {_said(value)}"

    return check


def size(value: Any) -> str:
    """A size with a unit, such as `16g`, `512 MiB`."""
    if isinstance(value, str) and SIZE.fullmatch(value.strip()) and size_bytes(value) > 0:
        return ""
    return f"must be a size with a unit such as 16g or 512m, got {_said(value)}"


def size_bytes(value: str) -> int:
    """Bytes of a size that `size` accepts; units are powers of 1024."""
    match = SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no size")
    return int(float(match[1]) * UNITS[match[2].lower()])


def list_of(item: Check, least: int = 0) -> Check:
    """A list whose items pass `item`, with at least `least` of them."""

    def check(value: Any) -> str:
        if not isinstance(value, (list, tuple)):
            return f"must be a list, got {_said(value)}"
        if len(value) < least:
            return f"must have at least {least} item{'s' if least > 1 else ''}"
        for position, entry in enumerate(value):
            if problem := item(entry):
                return f"item {position + 1} {problem}"
        return ""

    return check


def map_of(key: re.Pattern[str], what: str, item: Check) -> Check:
    """A mapping whose keys match `key` and whose values pass `item`."""

    def check(value: Any) -> str:
        if not isinstance(value, Mapping):
            return f"must be a mapping, got {_said(value)}"
        for entry_key, entry in value.items():
            if not isinstance(entry_key, str) or not key.fullmatch(entry_key):
                return f"has {_said(entry_key)} where {what} is expected"
            if problem := item(entry):
                return f"has `{entry_key}`, which {problem}"
        return ""

    return check


def gpu_id(value: Any) -> str:
    """A GPU: its index, or its UUID as nvidia-smi prints it."""
    if isinstance(value, str) and value.startswith("GPU-"):
        return ""
    return "" if not whole(0, 63)(value) else f"must be a GPU index (0 to 63) or a UUID (GPU-...), got {_said(value)}"


def scalar(value: Any) -> str:
    """Text, a number, true or false."""
    if isinstance(value, (str, int, float, bool)):
        return ""
    return f"must be text, a number, true or false, got {_said(value)}"


def flag_value(value: Any) -> str:
    """The value of an engine flag: scalar, list of scalars, or a mapping (written as JSON)."""
    if isinstance(value, Mapping):
        return ""
    return list_of(scalar, 1)(value) if isinstance(value, (list, tuple)) else scalar(value)


def env_value(value: Any) -> str:
    """The value of an environment variable. YAML's yes/no turn into booleans silently, so those must be quoted."""
    if isinstance(value, bool):
        return f'is {str(value).lower()}: write it as quoted text, such as "{int(value)}"'
    return "" if isinstance(value, (str, int, float)) else f"must be text or a number, got {_said(value)}"


# ---------------------------------------------------------------------------------------------------------------------
# Shapes: key -> (check, required).

Shape = Mapping[str, tuple[Check, bool]]

_BUILD: Shape = {
    "base": (name, True),
    "packages": (list_of(text), False),
    "venv": (text, False),
    "pip": (list_of(text), False),
    "pip_index": (text, False),
    "pip_remove": (list_of(text), False),
    "require": (list_of(text), False),
    "constraints": (list_of(text), False),
    "patches": (list_of(lambda v: patch_problem(v)), False),
    "files": (map_of(re.compile(r"/.+"), "an absolute path", lambda v: shape_problem(v, _FILE)), False),
    "env": (map_of(ENV_NAME, "an environment name", env_value), False),
    "entrypoint": (list_of(text), False),
    "command": (list_of(text), False),
    "user": (text, False),
}
_PATCH: Shape = {
    "name": (name, True),
    "target": (text, True),
    "lacks": (text, True),
    "after": (text, True),
    "insert": (text, True),
}
_FILE: Shape = {"content": (text, True), "mode": (text, False)}
_BOOTSTRAP: Shape = {"suite": (text, True), "packages": (list_of(text), False)}
_IMAGE_SOURCES: Mapping[str, Check] = {
    "pull": text,
    "archive": text,
    "build": lambda v: build_problem(v),
    "bootstrap": lambda v: shape_problem(v, _BOOTSTRAP),
}
_ENGINE: Shape = {"name": (one_of("vllm"), True), "version": (text, True)}
_PROOFS: Shape = {
    "imports": (list_of(text), False),
    "architectures": (list_of(text), False),
    "mla": (list_of(lambda v: mla_problem(v)), False),
    "tool_parsers": (list_of(text), False),
    "reasoning_parsers": (list_of(text), False),
}
_IMAGE: Shape = {
    "sources": (list_of(lambda v: source_problem(v, _IMAGE_SOURCES), 1), True),
    "accelerator": (one_of("cpu", "nvidia"), False),
    "engine": (lambda v: shape_problem(v, _ENGINE), False),
    "proofs": (lambda v: shape_problem(v, _PROOFS), False),
    "size_gib": (number(0, 1000), False),
    "description": (text, False),
}
_QUANTIZE: Shape = {"model": (name, True), "recipe": (name, True)}
_MODEL_SOURCES: Mapping[str, Check] = {
    "hub": text,
    "package": text,
    "path": text,
    "quantize": lambda v: shape_problem(v, _QUANTIZE),
}
_MODEL_EXTRA: Mapping[str, Check] = {"revision": text, "sha256": text, "gguf": text, "convert_with": name}
_MODEL: Shape = {
    "sources": (list_of(lambda v: source_problem(v, _MODEL_SOURCES, _MODEL_EXTRA), 1), True),
    "revision": (text, False),
    "description": (text, False),
    "license": (text, False),
    "architecture": (text, False),
    "family": (text, False),
    "size_gib": (number(0, 4000), False),
    "context": (whole(1, 100_000_000), False),
    "vision": (boolean, False),
    "thinking": (boolean, False),
    "quantization": (one_of(*QUANTIZATIONS), False),
}
_PLUGINS: Shape = {
    "tool_parser": (text, False),
    "reasoning_parser": (text, False),
    "chat_template": (text, False),
    "middleware": (list_of(text), False),
}
_LIMITS: Shape = {
    "memory": (size, False),
    "shm_size": (size, False),
    "cpus": (number(0.1, 1024), False),
    "pids": (whole(64, 4_194_304), False),
    "nofile": (whole(1024, 1_048_576), False),
}
_SMOKE: Shape = {"question": (text, True), "answer": (text, True), "max_tokens": (whole(1, 100_000), False)}
_WARMUP: Shape = {"prompt_tokens": (list_of(whole(1, 10_000_000)), True)}
_SERVICE: Shape = {
    "image": (name, True),
    "model": (name, True),
    "port": (whole(1, 65535), True),
    "served_model_name": (text, False),
    "gpus": (list_of(gpu_id), True),
    "hostname": (name, False),
    "status": (one_of(*STATUSES), False),
    "reason": (text, False),
    "state": (one_of(*STATES), False),
    "description": (text, False),
    "args": (map_of(FLAG, "an engine flag without its dashes", flag_value), False),
    "env": (map_of(ENV_NAME, "an environment name", env_value), False),
    "plugins": (lambda v: shape_problem(v, _PLUGINS), False),
    "volumes": (list_of(text), False),
    "limits": (lambda v: shape_problem(v, _LIMITS), False),
    "boot_timeout": (whole(10, 86_400), False),
    "stop_grace": (whole(1, 3_600), False),
    "drain": (whole(0, 3_600), False),
    "smoke": (lambda v: shape_problem(v, _SMOKE), False),
    "warmup": (lambda v: shape_problem(v, _WARMUP), False),
}
_GPU: Shape = {"index": (whole(0, 63), True), "uuid": (text, False), "model": (text, True), "memory": (size, True)}
SETTINGS: Mapping[str, Check] = {
    "root": lambda v: text(v) or ("" if v.startswith("/") else f"must be an absolute path, got {_said(v)}"),
    "accelerator": one_of("cpu", "nvidia"),
    "gpu_runtime": one_of("cdi", "nvidia"),
    "bind_address": text,
    "domain": lambda v: "" if isinstance(v, str) else f"must be text, got {_said(v)}",
    "engine_uid": whole(1, 4_294_967_293),
    "wheelhouse": lambda v: "" if isinstance(v, str) else f"must be a path or empty, got {_said(v)}",
    "ca_bundle": lambda v: "" if isinstance(v, str) else f"must be a path or empty, got {_said(v)}",
    "offline": boolean,
    "prune": boolean,
    "force": list_of(name),
}


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, "" when none is near."""
    near = difflib.get_close_matches(str(word), sorted(known), n=1, cutoff=0.8)
    return near[0] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the nearest known word, or all known words when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known) or 'none'}."


def shape_problem(value: Any, shape: Shape) -> str:
    """What is wrong with a nested mapping, as one text."""
    for finding in shape_findings(value, shape, "", ""):
        return f"`{finding.key.lstrip('.')}` {finding.message}" if finding.key else finding.message
    return ""


def source_problem(value: Any, kinds: Mapping[str, Check], extra: Mapping[str, Check] | None = None) -> str:
    """A source is a mapping with exactly one kind, and options beside it."""
    if not isinstance(value, Mapping):
        return f"must be a mapping, got {_said(value)}"
    options = extra or {}
    for key in value:
        if key not in kinds and key not in options:
            return f"has the unknown key `{key}`. {did_you_mean(key, [*kinds, *options])}"
    used = [kind for kind in kinds if kind in value]
    if len(used) != 1:
        return f"must have exactly one of {', '.join(kinds)}, got {', '.join(used) or 'none'}"
    for key, entry in value.items():
        if problem := (kinds[key] if key in kinds else options[key])(entry):
            return f"`{key}` {problem}"
    return ""


def build_problem(value: Any) -> str:
    """What is wrong with build steps: their shape, or two of them that don't go together."""
    if problem := shape_problem(value, _BUILD):
        return problem
    if value.get("pip") and (value.get("require") or value.get("patches")):
        return "has `pip`, which makes a Python of its own, beside `require` or `patches`, which change the base's"
    return ""


def patch_problem(value: Any) -> str:
    """What is wrong with a patch; one that does not add what it is missed for would be applied for ever."""
    problem = shape_problem(value, _PATCH)
    if not problem and value["lacks"] not in value["insert"]:
        return "adds in `insert` nothing that has the text of `lacks`"
    return problem


def mla_problem(value: Any) -> str:
    """The parts of a model's config.json by which an engine chooses architecture and attention."""
    if not isinstance(value, Mapping):
        return f"must be a mapping, as in a model's config.json, got {_said(value)}"
    if problem := list_of(text, 1)(value.get("architectures")):
        return f"`architectures` {problem}"
    return "" if not text(value.get("model_type")) else "must have `model_type`"


def shape_findings(value: Any, shape: Shape, key: str, id_prefix: str) -> list[Finding]:
    """Findings of a mapping against its shape: unknown and missing keys, values of the wrong kind."""
    if not isinstance(value, Mapping):
        return [
            Finding(
                f"{id_prefix}mistyped", "error", key, f"must be a mapping, got {_said(value)}", "Write keys below it"
            )
        ]
    found = []
    for entry_key, entry in value.items():
        where = f"{key}.{entry_key}"
        if entry_key not in shape:
            hint = did_you_mean(entry_key, shape)
            found.append(Finding(f"{id_prefix}unknown-key", "error", where, "is not a known key", hint))
        elif problem := shape[entry_key][0](entry):
            found.append(Finding(f"{id_prefix}mistyped", "error", where, problem, f"Correct `{entry_key}`"))
    for wanted, (_, required) in shape.items():
        if required and wanted not in value:
            found.append(
                Finding(f"{id_prefix}missing-key", "error", f"{key}.{wanted}", "is missing", f"Add `{wanted}`")
            )
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Whole declarations.


def merge(ours: Any, theirs: Any) -> Any:
    """`theirs` over `ours`: mappings merge recursively, everything else (lists too) is replaced."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = [*ours, *(k for k in theirs if k not in ours)]
        return {k: merge(ours[k], theirs[k]) if k in ours and k in theirs else ours.get(k, theirs.get(k)) for k in keys}
    return theirs


def _service_findings(entry: Mapping[str, Any], key: str) -> list[Finding]:
    found = []
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
    if utilization is not None and (problem := number(0.01, 1.0)(utilization)):
        remedy = "It is a share of a GPU's memory, such as 0.9"
        found.append(Finding("utilization-range", "error", f"{key}.args.gpu-memory-utilization", problem, remedy))
    if entry.get("status") in ("archived", "rejected") and not entry.get("reason"):
        found.append(
            Finding("reason-missing", "error", f"{key}.reason", f"is missing for status {entry['status']}", "Say why")
        )
    return found


def _catalog(
    variable: str, catalog: Any, shape: Shape, extra: Callable[[Mapping[str, Any], str], list[Finding]] | None = None
) -> tuple[dict[str, Mapping[str, Any]], list[Finding]]:
    """Entries that are well-formed, and the findings of those that are not."""
    if not isinstance(catalog, Mapping):
        return {}, [
            Finding(
                "mistyped",
                "error",
                variable,
                f"must be a mapping by name, got {_said(catalog)}",
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
        problems += shape_findings(entry, shape, key, "")
        if not problems and extra:
            problems += extra(entry, key)
        found += problems
        if not problems:
            good[str(entry_name)] = entry
    return good, found


def parse(raw: Mapping[str, Any]) -> tuple[Declared | None, list[Finding]]:
    """The declaration of one host from its variables.

    `raw`: images, models, services (merged catalogs), host_services, gpus, settings (without the `llm_` prefix).
    Returns the typed declaration, or None with at least one finding of severity error.
    """
    images, found = _catalog("llm_images", raw.get("images", {}), _IMAGE)
    models, more = _catalog("llm_models", raw.get("models", {}), _MODEL)
    found += more
    services, more = _catalog("llm_services", raw.get("services", {}), _SERVICE, _service_findings)
    found += more

    settings = raw.get("settings", {})
    for key, value in settings.items():
        if problem := SETTINGS[key](value):
            found.append(Finding("mistyped", "error", f"llm_{key}", problem, f"Correct `llm_{key}`"))
    gpus = raw.get("gpus", [])
    if not isinstance(gpus, (list, tuple)):
        found.append(
            Finding("mistyped", "error", "llm_host_gpus", f"must be a list, got {_said(gpus)}", "List the GPUs")
        )
        gpus = []
    for position, gpu in enumerate(gpus):
        found += shape_findings(gpu, _GPU, f"llm_host_gpus.{position}", "")
    host_services = raw.get("host_services", [])
    if problem := list_of(name)(host_services):
        found.append(Finding("mistyped", "error", "llm_host_services", problem, "List names of services"))
        host_services = []

    found += _reference_findings(raw, images, models, services, host_services, settings.get("force", ()))
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
        ),
        found,
    )


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
    forced: Iterable[str],
) -> list[Finding]:
    """References between declarations that lead nowhere. Names count as known even if their own entry is broken."""
    known = {kind: list(raw.get(kind) or {}) for kind in ("images", "models", "services")}
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
            origin = (source.get("quantize") or {}).get("model")
            if origin is not None and origin not in known["models"]:
                found.append(_unknown(f"{key}.quantize.model", "model", origin, known["models"]))
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
    for service in forced:
        if service not in known["services"]:
            found.append(_unknown("llm_force", "service", service, known["services"]))
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
