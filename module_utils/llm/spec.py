"""Declarations to typed objects: the shape of images, models, services, GPUs and settings, and what is wrong with them.

Nothing here does I/O. Every problem becomes a `Finding` that names what, where (key and, if known, file) and what to do;
a declaration with findings of severity `error` yields no object, so later code never sees a half-valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ansible.module_utils.llm import renamed, smoke, values
from ansible.module_utils.llm.values import (
    ENV_NAME,
    FLAG,
    NAME,
    RULE,
    SAFE_PATH,
    Check,
    ListOf,
    MapOf,
    boolean,
    name,
    number,
    one_of,
    prose,
    said,
    size,
    size_bytes,
    text,
    whole,
)

GIB = 2**30
STATUSES = ("active", "fallback", "archived", "rejected")
STATES = ("present", "stopped", "absent")
QUANTIZATIONS = ("none", "awq", "gptq", "fp8")
METHODS = ("gptq", "awq", "fp8-dynamic")

# Flags that other keys of a service (or this project) own, with what to write instead.
OWNED_FLAGS = {
    "model": "the service's `model` key names it",
    "served-model-name": "use the service's `served_model_name` key",
    "host": "engines listen on their own network only; the gateway owns the address",
    "port": "use the service's `port` key",
    "uds": "the gateway reaches the engine over the network",
    "config": "it carries the engine's key",
    "api-key": "keys are made on the host or come from `llm_service_keys`, never from a command line",
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
    accepted: str = ""  # the declared reason to live with it; `severity` is info then

    def as_dict(self) -> dict[str, str]:
        """JSON shape of plan.json, with `file` and `accepted` only where there is something to say."""
        shown = dataclasses.asdict(self)
        return {k: v for k, v in shown.items() if v or k not in ("file", "accepted")}

    def told(self) -> str:
        """What is wrong, and why that was accepted if it was."""
        return f"{self.message}; accepted: {self.accepted}" if self.accepted else self.message

    def text(self) -> str:
        """One line for a person: where, what, what to do."""
        place = f"{self.key} ({self.file})" if self.file else self.key
        return _one_line(f"{place}: {self.told()}." + ("" if self.accepted else f" {self.remedy}"))


def _one_line(text: str) -> str:
    """Text with whatever would break or turn its line (control characters in a name, say) spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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
    accept: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    vision: bool | None = None
    thinking: bool | None = None
    quantization: str = "none"
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is quantized, and how much of its quality that may cost.

    dataset: where texts come from; of these, in an order that `seed` decides, `samples` pieces of up to `length` tokens
    calibrate, and the `quality.samples` pieces after them are held out to measure with.
    """

    name: str
    method: str
    dataset: Mapping[str, Any]
    quality: Mapping[str, Any]
    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ("lm_head",)
    group_size: int = 128
    samples: int = 512
    length: int = 2048
    seed: int = 42
    description: str = ""


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
    accept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    liveness: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
    hub_endpoint: str = ""
    supervisor: bool = True
    supervisor_interval: int = 5
    supervisor_recoveries: int = 3
    offline: bool = False
    prune: bool = False
    verify: str = "quick"
    repair: bool = False
    force: tuple[str, ...] = ()
    switch: tuple[str, ...] = ()
    gateway: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Declared:
    """All that is declared for one host, valid on its own terms."""

    images: Mapping[str, Image]
    models: Mapping[str, Model]
    services: Mapping[str, Service]
    host_services: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    settings: Settings
    recipes: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes: what each key takes, whether it must be there, what it is for, and what holds without it. The checks, the hints at
# the nearest key and docs/reference all come from these tables.


class Key(NamedTuple):
    """One key of a shape. `about`: sentences for the reference, with the unit. `default`: unless a dataclass above has it."""

    check: Check
    required: bool
    about: str
    default: Any = None


Shape = Mapping[str, Key]


@dataclasses.dataclass(frozen=True)
class Keys:
    """A mapping with the keys of `shape`. `also`: what else must hold of one whose keys are all right."""

    shape: Shape
    also: Check | None = None

    def __call__(self, value: Any) -> str:
        """What is wrong with it."""
        return _first(value_findings(value, self, ""))


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A mapping with exactly one of `kinds`, and `options` beside it."""

    kinds: Shape
    options: Shape = dataclasses.field(default_factory=dict)

    def __call__(self, value: Any) -> str:
        """What is wrong with it."""
        return _first(_source_findings(value, self, ""))


def _build_problem(value: Any) -> str:
    """Two build steps that don't go together."""
    if value.get("pip") and (value.get("require") or value.get("patches")):
        return "has `pip`, which makes a Python of its own, beside `require` or `patches`, which change the base's"
    return ""


def _patch_problem(value: Any) -> str:
    """A patch that does not add what it is missed for would be applied for ever."""
    return "" if value["lacks"] in value["insert"] else "adds in `insert` nothing that has the text of `lacks`"


def _mla_problem(value: Any) -> str:
    """The parts of a model's config.json by which an engine chooses architecture and attention."""
    if not isinstance(value, Mapping):
        return f"must be a mapping, as in a model's config.json, got {said(value)}"
    if problem := ListOf(text, 1)(value.get("architectures")):
        return f"`architectures` {problem}"
    return "must have `model_type`" if text(value.get("model_type")) else values.json_value(value)


def _recipe_problem(value: Any) -> str:
    """Keys that a method has no use for would be read as if they did something."""
    unused = [k for k in ("group_size", "samples") if k in value] if value["method"] == "fp8-dynamic" else []
    return f"has `{unused[0]}`, which fp8-dynamic has no use for" if unused else ""


def pattern(value: Any) -> str:
    """A module's class or name, or a regular expression for its name after `re:`."""
    if problem := text(value):
        return problem
    try:
        re.compile(value.removeprefix("re:"))
    except re.error as error:
        return f"is no regular expression ({error}): {value!r}"
    return ""


_PATCH: Shape = {
    "name": Key(name, True, "Name of the patch, for messages."),
    "target": Key(values.target, True, "Python module or absolute path of the file to change."),
    "lacks": Key(prose, True, "Text whose absence makes the patch necessary."),
    "after": Key(prose, True, "Text that must be in the target exactly once."),
    "insert": Key(prose, True, "What goes right after it; it has the text of `lacks`."),
}
_FILE: Shape = {
    "content": Key(prose, True, "What the file contains."),
    "mode": Key(values.mode, False, "Its permissions in octal, as quoted text.", "0644"),
}
_BUILD: Shape = {
    "base": Key(name, True, "Image of this catalog that the build starts from; it is made first when it is missing."),
    "packages": Key(ListOf(values.debian), False, "Packages that apt installs."),
    "venv": Key(
        values.safe_path, False, "Folder in the image of the Python environment that `pip` installs into.", "/opt/venv"
    ),
    "pip": Key(ListOf(values.requirement), False, "Python packages, as pip takes them; pin each."),
    "pip_index": Key(values.url, False, "Address of a package index that pip asks besides its own."),
    "pip_remove": Key(ListOf(values.distribution), False, "Python packages that come along and are removed again."),
    "require": Key(
        ListOf(values.requirement),
        False,
        "Requirements that the base's own Python must meet, within what its vLLM declares; installed only where it does not.",
    ),
    "constraints": Key(ListOf(values.requirement), False, "Constraints of pip, for `pip` and `require`."),
    "patches": Key(
        ListOf(Keys(_PATCH, _patch_problem)),
        False,
        "Texts to put into files of the base, each only where its target lacks it.",
    ),
    "files": Key(
        MapOf(SAFE_PATH, "an absolute path (letters, digits, ._@+-)", Keys(_FILE)),
        False,
        "Files of the image, by path.",
    ),
    "env": Key(MapOf(ENV_NAME, "an environment name", values.env_value), False, "Environment of the image."),
    "entrypoint": Key(
        ListOf(text), False, "Its entry point, when it is not that of the base. Engines are started with `vllm serve`."
    ),
    "command": Key(ListOf(text), False, "Its command, when it is not that of the base."),
    "user": Key(values.account, False, "User that it runs as, when it is not that of the base."),
}
_BOOTSTRAP: Shape = {
    "suite": Key(values.suite, True, "Release of Debian, such as `bookworm`."),
    "packages": Key(ListOf(values.debian), False, "Packages besides the smallest set."),
}
_IMAGE_SOURCES: Shape = {
    "pull": Key(values.reference, False, "Reference in a registry, with tag or digest."),
    "archive": Key(values.absolute, False, "File on the host that `docker load` reads."),
    "build": Key(Keys(_BUILD, _build_problem), False, "Steps from which it is built on the host."),
    "bootstrap": Key(
        Keys(_BOOTSTRAP), False, "A minimal Debian, made with debootstrap from the host's package mirror."
    ),
}
_ENGINE: Shape = {
    "name": Key(one_of("vllm"), True, "The engine."),
    "version": Key(values.version, True, "Its version, as quoted text."),
}
_PROOFS: Shape = {
    "imports": Key(ListOf(values.dotted), False, "Python modules that are imported without an error."),
    "architectures": Key(ListOf(values.word), False, "Architectures of models that vLLM's registry has."),
    "mla": Key(
        ListOf(_mla_problem),
        False,
        "Parts of a model's `config.json`, with `architectures` and `model_type`, for which vLLM's configuration says MLA.",
    ),
    "tool_parsers": Key(ListOf(values.word), False, "Tool parsers that are registered and can be loaded."),
    "reasoning_parsers": Key(ListOf(values.word), False, "Reasoning parsers, likewise."),
}
_IMAGE: Shape = {
    "sources": Key(
        ListOf(OneOf(_IMAGE_SOURCES), 1), True, "Where it comes from, tried from top to bottom until one delivers."
    ),
    "accelerator": Key(one_of("cpu", "nvidia"), False, "What its engine computes on; only for engines."),
    "engine": Key(Keys(_ENGINE), False, "The engine that it carries; only for engines."),
    "proofs": Key(Keys(_PROOFS), False, "What must hold inside it before it gets its name."),
    "size_gib": Key(
        number(0, 1000),
        False,
        "GiB that it takes on disk, for a build without its base; the plan looks for that much room.",
    ),
    "description": Key(prose, False, "What it is for, in a few words."),
    "accept": Key(
        MapOf(RULE, "the id of an advisory", values.why),
        False,
        "Published weaknesses of its engine that you live with: id to reason, for all services that run it.",
    ),
}
_DATASET: Shape = {
    "hub": Key(values.repository, False, "Data set of the Hugging Face hub, `owner/name`."),
    "file": Key(
        values.absolute,
        False,
        "File on the host: text (`.txt`, `.md`), or a line or a row for each sample (`.jsonl`, `.parquet`) with `text` or "
        "`messages`.",
    ),
}
_DATASET_EXTRA: Shape = {
    "match": Key(text, False, "Pattern of the file in the `hub` data set; the first that matches. Required for one."),
    "revision": Key(values.branch, False, "Branch, tag or commit of the `hub` data set.", "main"),
}
_QUALITY: Shape = {
    "samples": Key(whole(1, 10_000), True, "Pieces of text that are held out."),
    "perplexity": Key(number(1, 100), True, "Largest perplexity of the result, as a multiple of the source's."),
    "kl": Key(
        number(0, 100),
        True,
        "Largest mean KL divergence of the result's next tokens from the source's, in nats a token.",
    ),
}
_RECIPE: Shape = {
    "method": Key(
        one_of(*METHODS),
        True,
        "How: weights in 4 bit (W4A16) by GPTQ or by AWQ, or weights in FP8 with activations reduced on the fly.",
    ),
    "dataset": Key(OneOf(_DATASET, _DATASET_EXTRA), True, "Text to calibrate and to measure with."),
    "quality": Key(Keys(_QUALITY), True, "What the result may cost; beyond it, it is set aside and refused."),
    "targets": Key(ListOf(pattern, 1), False, "Modules to quantize, by class or name."),
    "ignore": Key(
        ListOf(pattern),
        False,
        "Modules to leave as they are, by name or `re:` and a regular expression. Proven bit for bit afterwards.",
    ),
    "group_size": Key(
        whole(1, 4096), False, "Weights that share a scale, in 4 bit; must divide the input of each module."
    ),
    "samples": Key(whole(1, 100_000), False, "Pieces of text to calibrate with."),
    "length": Key(whole(16, 1_000_000), False, "Tokens of a piece at most."),
    "seed": Key(whole(0, 2**31 - 1), False, "Decides which pieces calibrate and which are held out."),
    "description": Key(prose, False, "What it is for, in a few words."),
}
_QUANTIZE: Shape = {
    "model": Key(name, True, "Model of this catalog to start from."),
    "recipe": Key(name, True, "Recipe: a name in `llm_recipes`."),
}
_MODEL_SOURCES: Shape = {
    "hub": Key(values.repository, False, "Repository of the Hugging Face hub, `owner/name`."),
    "package": Key(values.package, False, "Pinned Python package (`name==version`) that carries a GGUF file."),
    "path": Key(values.absolute, False, "Folder on the host, which is copied."),
    "archive": Key(
        values.absolute,
        False,
        "Tar file (plain, gzip, or zstd where the host has that program) or ZIP file on the host.",
    ),
    "quantize": Key(
        Keys(_QUANTIZE), False, "Another model and a recipe, to make it on the host; no other source beside it."
    ),
}
_MODEL_EXTRA: Shape = {
    "revision": Key(
        values.branch, False, "Branch, tag or commit of this `hub` source, when it is not the model's `revision`."
    ),
    "endpoint": Key(values.url, False, "Address of a mirror for this `hub` source. `llm_hub_token` is not sent there."),
    "allow": Key(
        ListOf(text, 1),
        False,
        "Patterns of the files to fetch from this `hub` source. Without them, all but weights in formats that can run code.",
    ),
    "sha256": Key(values.sha256, False, "SHA-256 of the `package` or `archive`; required for a `package`."),
    "gguf": Key(values.relative, False, "Path of the GGUF file in the `package`; required for one."),
    "convert_with": Key(name, False, "Engine image in which the GGUF file is converted; required for a `package`."),
}


def _smoke_problem(value: Mapping[str, Any]) -> str:
    """A question without its answer would be judged by another one's, and a margin without them would be of another one."""
    given = [key for key in ("question", "answer") if key in value]
    if len(given) == 1:
        return f"has `{given[0]}` alone: `question` and `answer` go together"
    return "has `margin` without the `question` and `answer` that it is of" if "margin" in value and not given else ""


SMOKE: Shape = {
    "question": Key(prose, False, "What the service is asked.", "What is the capital of France?"),
    "answer": Key(prose, False, "What must be in the answer; upper and lower case count the same.", "Paris"),
    "margin": Key(
        number(0, 1000),
        False,
        "Least distance in nats between the likeliest token of the answer and the next one, up to its deciding word, as "
        "`scripts/margin.py` measures it. Below 1.5 the plan warns.",
    ),
    "max_tokens": Key(
        whole(1, 100_000), False, "Tokens that an answer may take. Models that think long need more.", 512
    ),
    "timeout": Key(
        whole(1, 3600),
        False,
        "Seconds for each check; long prompts and many requests may take up to five times that.",
        60,
    ),
    "needle": Key(
        whole(0, 100_000_000),
        False,
        "Tokens within which the model finds a word again, asked by `playbooks/smoke.yml`. Without it, its `context`.",
    ),
    "unable": Key(
        MapOf(re.compile("|".join(a.id for a in smoke.TABLE)), "a check of docs/smoke.md", values.why),
        False,
        "Checks that the model can't pass, each with the reason. They are left out, and every verdict says so.",
        {},
    ),
    "slowest": Key(
        number(0, 1),
        False,
        "Share of its own recorded speed on this host that a release must reach. 0 asks for none.",
        0.3,
    ),
}
_MODEL: Shape = {
    "sources": Key(
        ListOf(OneOf(_MODEL_SOURCES, _MODEL_EXTRA), 1),
        True,
        "Where it comes from, tried from top to bottom until one delivers.",
    ),
    "revision": Key(values.branch, False, "Branch, tag or commit."),
    "description": Key(prose, False, "What it is, in a few words."),
    "license": Key(text, False, "Its licence, as an SPDX identifier in lower case."),
    "architecture": Key(values.word, False, "The first of `architectures` in its config.json."),
    "family": Key(values.word, False, "Models of one family take the same parsers and prompts."),
    "size_gib": Key(number(0, 4000), False, "GiB that it takes on disk; the plan looks for that much room."),
    "context": Key(whole(1, 100_000_000), False, "Tokens of context that the model declares."),
    "vision": Key(boolean, False, "Whether it sees images. Without it, rules about images say nothing."),
    "thinking": Key(
        boolean, False, "Whether it thinks before it answers. Without it, rules about thoughts say nothing."
    ),
    "quantization": Key(
        one_of(*QUANTIZATIONS), False, "How its weights were reduced. The engine reads the format from the files."
    ),
    "smoke": Key(
        Keys(SMOKE, _smoke_problem),
        False,
        "What proves that it is served right; `question` and `answer` go together.",
    ),
}
_PLUGINS: Shape = {
    "tool_parser": Key(values.relative, False, "Registers the parser that the flag `tool-call-parser` names."),
    "reasoning_parser": Key(values.relative, False, "Registers the parser that the flag `reasoning-parser` names."),
    "chat_template": Key(
        values.relative, False, "Jinja template that turns messages into a prompt, instead of the model's own."
    ),
    "middleware": Key(
        ListOf(values.middleware), False, "ASGI middleware as `file:class`, in the order in which requests meet it."
    ),
}
LIMITS: Shape = {
    "memory": Key(size, False, "Memory of the container. No limit without it."),
    "shm_size": Key(size, False, "Shared memory of the container; engines on several GPUs need more.", "1g"),
    "cpus": Key(number(0.1, 1024), False, "Number of cores. No limit without it."),
    "pids": Key(whole(64, 4_194_304), False, "Number of processes and threads.", 4096),
    "nofile": Key(whole(1024, 1_048_576), False, "Number of open files. Docker's own limit without it."),
}
_WARMUP: Shape = {
    "prompt_tokens": Key(
        ListOf(whole(1, 10_000_000)), True, "Sizes of prompts in tokens; each is sent twice after the boot."
    ),
    "concurrency": Key(
        ListOf(whole(1, 1024)), False, "Numbers of prompts of the first size that are sent at once, each number twice."
    ),
    "shared_prefix": Key(whole(0, 10_000_000), False, "Tokens of a beginning that two prompts share. 0 sends none.", 0),
    "images": Key(boolean, False, "Whether to send pictures, two.", False),
    "timeout": Key(whole(1, 3600), False, "Seconds for each of its requests.", 300),
}
LIVENESS: Shape = {
    "progress_timeout": Key(
        whole(10, 86_400), False, "Seconds without a token, with work in flight, after which the engine hangs.", 60
    ),
    "freeze_timeout": Key(
        whole(10, 86_400),
        False,
        "Seconds without an answer and without processor time after which its server hangs.",
        30,
    ),
    "probe_every": Key(
        whole(0, 86_400), False, "Seconds without work after which a short generation is asked for; 0 for never.", 900
    ),
    "recover": Key(boolean, False, "Whether it is restarted when it hangs; false only reports it.", True),
}
_SERVICE: Shape = {
    "image": Key(name, True, "Image that it runs in: a name in `llm_images`."),
    "model": Key(name, True, "Model that it serves: a name in `llm_models`."),
    "port": Key(whole(1, 65535), True, "Port that the gateway publishes for it."),
    "served_model_name": Key(
        values.served,
        False,
        "What clients write as `model`. Without it, the name of the model. Services share one if they have the same model.",
    ),
    "gpus": Key(
        ListOf(values.gpu_id), True, "GPUs that it gets, each declared in `llm_host_gpus`; `[]` for a CPU image."
    ),
    "hostname": Key(
        name,
        False,
        "Its name: the gateway answers for it as `api.<hostname>.<llm_domain>`. Services of one model may share one.",
    ),
    "status": Key(
        one_of(*STATUSES),
        False,
        "Active services run; a fallback runs when nothing active takes its port or GPUs; the others only when forced.",
    ),
    "reason": Key(prose, False, "Why it has its status; required for archived and rejected ones."),
    "state": Key(one_of(*STATES), False, "Whether it is to run, to be kept stopped, or to be removed."),
    "description": Key(prose, False, "What it is for, in a few words."),
    "args": Key(
        MapOf(FLAG, "an engine flag without its dashes", values.flag_value),
        False,
        "The engine's flags, under its own names. true is the bare flag, "
        "false `--no-<flag>`, a list its values one after the other, a mapping JSON.",
    ),
    "env": Key(
        MapOf(ENV_NAME, "an environment name", values.env_value),
        False,
        "The engine's environment, beside what the project sets (caches, no calls home).",
    ),
    "plugins": Key(
        Keys(_PLUGINS),
        False,
        "Files that the engine loads, from `files/` beside the inventory's hosts file, or `files/` of the project.",
    ),
    "volumes": Key(ListOf(values.mount), False, "More mounts, in Compose's short form (`/on/host:/in/container:ro`)."),
    "limits": Key(Keys(LIMITS), False, "What the container may take."),
    "boot_timeout": Key(
        whole(10, 86_400),
        False,
        "Seconds until the engine must be ready; less once its boots are on record (ten times the slowest, and 900 in any case).",
    ),
    "stop_grace": Key(whole(1, 3_600), False, "Seconds that a stopped engine gets to end."),
    "drain": Key(whole(0, 3_600), False, "Seconds for running requests to end before a stop."),
    "smoke": Key(Keys(SMOKE, _smoke_problem), False, "What proves it, key by key over the model's `smoke`."),
    "warmup": Key(Keys(_WARMUP), False, "What it computes before clients reach it. No warm-up without it."),
    "accept": Key(
        MapOf(RULE, "the id of a rule", values.why),
        False,
        "Rules that it may break: id (docs/reference/rules.md) to the reason, which every plan shows.",
    ),
    "liveness": Key(Keys(LIVENESS), False, "When it counts as hung, and whether it is brought back then."),
}
_GPU: Shape = {
    "index": Key(whole(0, 63), True, "Its number, as `nvidia-smi -L` shows it."),
    "uuid": Key(values.uuid, False, "Its UUID there. With it a renumbered GPU keeps its services."),
    "model": Key(text, True, "Its product name there."),
    "memory": Key(size, True, "Its memory."),
}


def _certificate_problem(value: Any) -> str:
    """A certificate without its key, the other way round, or from two places."""
    if value.get("acme") and (value.get("certificate") or value.get("key")):
        return "has `acme` beside `certificate` and `key`: a certificate comes from one of them"
    return (
        ""
        if bool(value.get("certificate")) == bool(value.get("key"))
        else "has one of `certificate` and `key`: give both"
    )


def _agreed(value: Any) -> str:
    """Consent, which nobody gives by leaving something out."""
    return "" if value is True else f"must be true once you have read the server's terms of service, got {said(value)}"


ACME: Shape = {
    "email": Key(values.email_address, True, "Address of the account, to which the server may write."),
    "terms_agreed": Key(_agreed, True, "You agree to the terms of service of the server."),
    "server": Key(
        values.https_url,
        False,
        "Directory of the ACME server.",
        "https://acme-v02.api.letsencrypt.org/directory",
    ),
    "ca_file": Key(
        values.safe_path,
        False,
        "File on the host with the CA (PEM) by which the server itself is trusted, where it is your own. "
        "It may then give certificates for names that the public DNS does not have.",
        "",
    ),
}
GATEWAY: Shape = {
    "https_port": Key(
        whole(0, 65535), False, "Port of the door for all services, with TLS and HTTP/2; 0 for none.", 443
    ),
    "http_port": Key(
        whole(0, 65535), False, "Port that sends browsers and clients on to `https_port`; 0 for none.", 80
    ),
    "ports_address": Key(
        values.either("none", values.address),
        False,
        "Address on which the services' own ports, which have no TLS, are published: `127.0.0.1` keeps them to the host itself. "
        "Without it, that of `llm_bind_address`.",
        "",
    ),
    "names": Key(
        ListOf(values.domain),
        False,
        "Further names and addresses of this host, under which the model in a request picks the service. "
        "`api.<llm_domain>`, localhost and `llm_bind_address` are such names already.",
        (),
    ),
    "certificate": Key(
        values.absolute,
        False,
        "File on the host with a certificate and its chain (PEM). Without it an authority of the host's own issues one, "
        "and renews it: clients trust `gateway/ca/ca.pem` below `llm_root`.",
        "",
    ),
    "key": Key(values.absolute, False, "File on the host with the certificate's private key (PEM).", ""),
    "acme": Key(
        Keys(ACME),
        False,
        "An ACME server from which the certificate comes, and by which it is renewed on the host. "
        "It has to reach port 80 of every name.",
        {},
    ),
    "wait": Key(
        whole(0, 3600), False, "Seconds that a request waits for a service that is being replaced, or for its turn.", 60
    ),
    "body_limit": Key(size, False, "Largest body of a request.", "32m"),
}
SETTINGS: Shape = {
    "root": Key(
        values.safe_path,
        False,
        "Folder of the project on the host; an absolute path.",
    ),
    "accelerator": Key(one_of("cpu", "nvidia"), False, "What the host's engines compute on."),
    "gpu_runtime": Key(
        one_of("cdi", "nvidia"),
        False,
        "How containers get GPUs: as CDI devices (`nvidia.com/gpu=0`), or by Docker's NVIDIA device driver.",
    ),
    "bind_address": Key(
        values.address,
        False,
        "Address of the published ports, IPv4 or IPv6. Docker passes ufw by, so any but loopback is reachable from outside.",
    ),
    "domain": Key(
        values.either("none", values.domain),
        False,
        "Domain of the services' host names (`api.<hostname>.<domain>`); without it they have none.",
    ),
    "engine_uid": Key(whole(1, 4_294_967_293), False, "Numeric user of the engines."),
    "wheelhouse": Key(
        values.either("none", text),
        False,
        "Folder on the controller with Python packages that builds and pip look into first. "
        "group_vars/all/project.yml takes it from PIP_FIND_LINKS, if that is one folder.",
    ),
    "ca_bundle": Key(
        values.either("none", text),
        False,
        "CA bundle on the controller that downloads and builds trust. "
        "group_vars/all/project.yml takes it from SSL_CERT_FILE, if that is a file.",
    ),
    "hub_endpoint": Key(
        values.either("huggingface.co", values.url),
        False,
        "Address of the hub, or of a mirror that stands for it; empty for huggingface.co. `llm_hub_token` is sent there. "
        "group_vars/all/project.yml takes it from HF_ENDPOINT.",
    ),
    "supervisor": Key(
        boolean,
        False,
        "Watch the engines of the host, and bring back those that hang. A supervisor that runs goes only with `llm_prune`.",
    ),
    "supervisor_interval": Key(whole(2, 20), False, "Seconds between two looks at an engine; a verdict takes three."),
    "supervisor_recoveries": Key(
        whole(0, 100), False, "Recoveries of a service within an hour after which it is stopped instead."
    ),
    "offline": Key(
        boolean, False, "The host has no network: what is missing and only the network has is refused at once."
    ),
    "prune": Key(
        boolean,
        False,
        "Remove engines that the declaration does not want, before anything is started, and in the end images and models that "
        "nothing needs. A run that would take the last service, the gateway or the supervisor from a host that serves is refused "
        "without it. For the command line: `-e llm_prune=true`.",
    ),
    "verify": Key(
        one_of("quick", "deep"),
        False,
        "How playbooks/verify_models.yml looks: at sizes, headers and index, or also at every byte. For the command line.",
    ),
    "repair": Key(
        boolean,
        False,
        "Whether playbooks/verify_models.yml fetches damaged files again. For the command line: `-e llm_repair=true`.",
    ),
    "force": Key(
        ListOf(name),
        False,
        "Archived or rejected services to deploy all the same. For the command line: `-e llm_force=name`.",
    ),
    "switch": Key(
        ListOf(name),
        False,
        "Services that take the place of those they clash with, in runs that name them: `-e llm_switch=name`. "
        "In the host's variables it stays.",
    ),
    "gateway": Key(Keys(GATEWAY, _certificate_problem), False, "The door of the host, where another one is wanted."),
}


_LOCK: Shape = {
    "images": Key(
        MapOf(re.compile(r"[^\s@]+"), "a reference without a digest", values.digest),
        False,
        "Digest of each reference that an image's `pull` names by its tag.",
    ),
    "models": Key(
        MapOf(re.compile(r"[^\s@]+@\S+"), "a repository and a branch (owner/name@branch)", values.commit),
        False,
        "Commit of each `owner/name@branch` that a model's `hub` and `revision` name.",
    ),
}


def _by_name(shape: Shape) -> MapOf:
    return MapOf(NAME, "a name", Keys(shape))


# What inventories set beside the settings, by its full name.
VARIABLES: Shape = {
    "llm_images": Key(_by_name(_IMAGE), False, "Images that come with the project."),
    "llm_images_custom": Key(_by_name(_IMAGE), False, "Yours: mappings are merged over `llm_images`, lists replace."),
    "llm_models": Key(_by_name(_MODEL), False, "Models that come with the project."),
    "llm_models_custom": Key(_by_name(_MODEL), False, "Yours: mappings are merged over `llm_models`, lists replace."),
    "llm_recipes": Key(_by_name(_RECIPE), False, "Ways to quantize that come with the project."),
    "llm_recipes_custom": Key(
        _by_name(_RECIPE), False, "Yours: mappings are merged over `llm_recipes`, lists replace."
    ),
    "llm_services": Key(_by_name(_SERVICE), False, "Services that come with the project."),
    "llm_services_custom": Key(
        _by_name(_SERVICE), False, "Yours: mappings are merged over `llm_services`, lists replace."
    ),
    "llm_lock": Key(
        Keys(_LOCK),
        False,
        "What tags and branches of the catalogs stand for. `playbooks/lock.yml` writes it, "
        "to `group_vars/all/llm_lock.yml` of the inventory.",
    ),
    "llm_host_services": Key(
        ListOf(name), False, "Services that the host runs; `[]` for none. A host without it is refused."
    ),
    "llm_host_gpus": Key(ListOf(Keys(_GPU)), False, "GPUs of the host."),
    "llm_service_keys": Key(
        MapOf(NAME, "the name of a service", values.secret),
        False,
        "Client key of a service, by its name; from a vault. Without it a random one is made on the host.",
    ),
    "llm_hub_token": Key(values.secret, False, "Token of the Hugging Face hub, for gated models; from a vault."),
    "llm_pip_mirror": Key(
        values.secret_url, False, "Index that image builds use in place of PyPI; with a password in it, from a vault."
    ),
    "llm_key_do": Key(
        one_of("list", "create", "rotate", "revoke", "rotate-engine", "leaks"),
        False,
        "What playbooks/keys.yml does. This and the next seven are for the command line.",
        "list",
    ),
    "llm_key_client": Key(name, False, "Client whose key it is; to revoke, also the id of one key."),
    "llm_key_services": Key(ListOf(name), False, "Services that a new key is for, or `*` for all."),
    "llm_key_per_minute": Key(whole(1, 1_000_000), False, "Requests a minute. No limit without it."),
    "llm_key_at_once": Key(whole(1, 100_000), False, "Requests under way at a time. No limit without it."),
    "llm_key_queue": Key(whole(0, 100_000), False, "Requests that may wait beyond that.", 0),
    "llm_key_expires": Key(text, False, "End of a new key: `90d`, `12h`, or a date. Never without it."),
    "llm_key_overlap": Key(text, False, "How long older keys go on after a rotation.", "24h"),
    "llm_usage_since": Key(
        text,
        False,
        "From when on playbooks/usage.yml counts: `30m`, `24h`, `7d`, or a date. For the command line.",
        "24h",
    ),
    "llm_report_dir": Key(
        text, False, "Folder on the controller for plan.json, verdict.json and their page.", "reports"
    ),
}


def _first(findings: Iterable[Finding]) -> str:
    """The first finding as one text, for a mapping inside another value."""
    for finding in findings:
        return f"`{finding.key.lstrip('.')}` {finding.message}" if finding.key else finding.message
    return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, "" when none is near."""
    near = difflib.get_close_matches(str(word), sorted(map(str, known)), n=1, cutoff=0.8)
    return near[0] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the nearest known word, or all known words when none is near."""
    known = sorted(map(str, known))  # YAML makes a boolean of a name such as `on`, a number of `5`
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known) or 'none'}."


def shape_findings(value: Any, shape: Shape, key: str) -> list[Finding]:
    """Findings of a mapping against its shape: unknown and missing keys, values of the wrong kind."""
    if not isinstance(value, Mapping):
        return [_mistyped(key, f"must be a mapping, got {said(value)}", "Write keys below it")]
    found = []
    for entry_key, entry in value.items():
        where = f"{key}.{entry_key}"
        if entry_key in shape:
            found += value_findings(entry, shape[entry_key].check, where)
        else:
            found.append(_unknown_key(where, entry_key, shape))
    for wanted, declared in shape.items():
        if declared.required and wanted not in value:
            found.append(Finding("missing-key", "error", f"{key}.{wanted}", "is missing", f"Add `{wanted}`"))
    return found


def value_findings(value: Any, check: Check, key: str) -> list[Finding]:
    """Findings of one value. They name the innermost key that is wrong, so that its line is found."""
    if isinstance(check, Keys):
        found = shape_findings(value, check.shape, key)
        problem = check.also(value) if check.also and not found else ""
        return [_mistyped(key, problem)] if problem else found
    if isinstance(check, OneOf):
        return _source_findings(value, check, key)
    if (
        isinstance(check, (ListOf, MapOf))
        and isinstance(check.item, (Keys, OneOf))
        and not dataclasses.replace(check, item=values.anything)(value)
    ):
        items = value.items() if isinstance(check, MapOf) else enumerate(value)
        return [f for part, item in items for f in value_findings(item, check.item, f"{key}.{part}")]
    problem = check(value)
    return [_mistyped(key, problem)] if problem else []


def _source_findings(value: Any, check: OneOf, key: str) -> list[Finding]:
    shape = {**check.kinds, **check.options}
    found = shape_findings(value, shape, key)
    if not isinstance(value, Mapping) or any(f.id in ("unknown-key", "renamed-key") for f in found):
        return found  # the kind may be the misspelt key
    used = [kind for kind in check.kinds if kind in value]
    if len(used) != 1:
        message = f"must have exactly one of {', '.join(check.kinds)}, got {', '.join(used) or 'none'}"
        found.insert(0, _mistyped(key, message, "Make each a source of its own" if used else "Add one"))
    return found


def _mistyped(key: str, problem: str, remedy: str = "") -> Finding:
    return Finding("mistyped", "error", key, problem, remedy or f"Correct `{key.rpartition('.')[2]}`")


def _unknown_key(key: str, used: str, shape: Shape) -> Finding:
    message, remedy = renamed.successor(key)
    if message:
        return Finding("renamed-key", "error", key, message, remedy)
    return Finding("unknown-key", "error", key, "is not a known key", did_you_mean(used, shape))


# ---------------------------------------------------------------------------------------------------------------------
# Whole declarations.


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


OTHERS = ("llm_hub_token", "llm_pip_mirror", "llm_report_dir")  # variables that are neither catalogs nor settings


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
    variable: str, catalog: Any, shape: Shape, extra: Callable[[Mapping[str, Any], str], list[Finding]] | None = None
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
        problems += shape_findings(entry, shape, key)
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
        found += shape_findings(gpu, _GPU, f"llm_host_gpus.{position}")
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
    """A model that is to be made of another by a recipe."""
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
