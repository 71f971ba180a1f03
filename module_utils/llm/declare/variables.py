"""Tables of all keys that an inventory may set. Checks, hints and docs/reference all come from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.declare.checks import CHECKS
from ansible.module_utils.llm.declare.schema import Field, Keys, OneOf, Schema, pattern
from ansible.module_utils.llm.declare.values import (
    ENV_NAME,
    FLAG,
    NAME,
    RULE,
    SAFE_PATH,
    ListOf,
    MapOf,
    boolean,
    name,
    number,
    one_of,
    prose,
    said,
    size,
    text,
    whole,
)

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


def _build_problem(value: Any) -> str:
    """What is wrong with an image's build: steps that exclude each other."""
    if value.get("pip") and (value.get("require") or value.get("patches")):
        return "has `pip`, which makes a Python of its own, beside `require` or `patches`, which change the base's"
    return ""


def _patch_problem(value: Any) -> str:
    """What is wrong with a patch: one that does not add the text by whose absence it is needed would be applied for ever."""
    return "" if value["lacks"] in value["insert"] else "adds in `insert` nothing that has the text of `lacks`"


def _mla_problem(value: Any) -> str:
    """What is wrong with a proof `mla`: it needs the parts of a config.json by which an engine chooses its attention."""
    if not isinstance(value, Mapping):
        return f"must be a mapping, as in a model's config.json, got {said(value)}"
    if problem := ListOf(text, 1)(value.get("architectures")):
        return f"`architectures` {problem}"
    return "must have `model_type`" if text(value.get("model_type")) else values.json_value(value)


def _recipe_problem(value: Any) -> str:
    """What is wrong with a recipe: keys that its method ignores are refused, as they would read as if they did something."""
    unused = [k for k in ("group_size", "samples") if k in value] if value["method"] == "fp8-dynamic" else []
    return f"has `{unused[0]}`, which fp8-dynamic has no use for" if unused else ""


_PATCH: Schema = {
    "name": Field(name, True, "Name of the patch, for messages."),
    "target": Field(values.target, True, "Python module or absolute path of the file to change."),
    "lacks": Field(prose, True, "Text whose absence makes the patch necessary."),
    "after": Field(prose, True, "Text that must be in the target exactly once."),
    "insert": Field(prose, True, "What goes right after it; it has the text of `lacks`."),
}
_FILE: Schema = {
    "content": Field(prose, True, "What the file contains."),
    "mode": Field(values.mode, False, "Its permissions in octal, as quoted text.", "0644"),
}
_BUILD: Schema = {
    "base": Field(name, True, "Image of this catalog that the build starts from; it is made first when it is missing."),
    "packages": Field(ListOf(values.debian), False, "Packages that apt installs."),
    "venv": Field(
        values.safe_path, False, "Folder in the image of the Python environment that `pip` installs into.", "/opt/venv"
    ),
    "pip": Field(ListOf(values.requirement), False, "Python packages, as pip takes them; pin each."),
    "pip_index": Field(values.url, False, "Address of a package index that pip asks besides its own."),
    "pip_remove": Field(ListOf(values.distribution), False, "Python packages that come along and are removed again."),
    "require": Field(
        ListOf(values.requirement),
        False,
        "Requirements that the base's own Python must meet, within what its vLLM declares; installed only where it does not.",
    ),
    "constraints": Field(ListOf(values.requirement), False, "Constraints of pip, for `pip` and `require`."),
    "patches": Field(
        ListOf(Keys(_PATCH, _patch_problem)),
        False,
        "Texts to put into files of the base, each only where its target lacks it.",
    ),
    "files": Field(
        MapOf(SAFE_PATH, "an absolute path (letters, digits, ._@+-)", Keys(_FILE)),
        False,
        "Files of the image, by path.",
    ),
    "env": Field(MapOf(ENV_NAME, "an environment name", values.env_value), False, "Environment of the image."),
    "entrypoint": Field(
        ListOf(text), False, "Its entry point, when it is not that of the base. Engines are started with `vllm serve`."
    ),
    "command": Field(ListOf(text), False, "Its command, when it is not that of the base."),
    "user": Field(values.account, False, "User that it runs as, when it is not that of the base."),
}
_BOOTSTRAP: Schema = {
    "suite": Field(values.suite, True, "Release of Debian, such as `bookworm`."),
    "packages": Field(ListOf(values.debian), False, "Packages besides the smallest set."),
}
_IMAGE_SOURCES: Schema = {
    "pull": Field(values.reference, False, "Reference in a registry, with tag or digest."),
    "archive": Field(values.absolute, False, "File on the host that `docker load` reads."),
    "build": Field(Keys(_BUILD, _build_problem), False, "Steps from which it is built on the host."),
    "bootstrap": Field(
        Keys(_BOOTSTRAP), False, "A minimal Debian, made with debootstrap from the host's package mirror."
    ),
}
_ENGINE: Schema = {
    "name": Field(one_of("vllm"), True, "The engine."),
    "version": Field(values.version, True, "Its version, as quoted text."),
}
_PROOFS: Schema = {
    "imports": Field(ListOf(values.dotted), False, "Python modules that are imported without an error."),
    "architectures": Field(ListOf(values.word), False, "Architectures of models that vLLM's registry has."),
    "mla": Field(
        ListOf(_mla_problem),
        False,
        "Parts of a model's `config.json`, with `architectures` and `model_type`, for which vLLM's configuration says MLA.",
    ),
    "tool_parsers": Field(ListOf(values.word), False, "Tool parsers that are registered and can be loaded."),
    "reasoning_parsers": Field(ListOf(values.word), False, "Reasoning parsers, likewise."),
}
_IMAGE: Schema = {
    "sources": Field(
        ListOf(OneOf(_IMAGE_SOURCES), 1), True, "Where it comes from, tried from top to bottom until one delivers."
    ),
    "accelerator": Field(one_of("cpu", "nvidia"), False, "What its engine computes on; only for engines."),
    "engine": Field(Keys(_ENGINE), False, "The engine that it carries; only for engines."),
    "proofs": Field(Keys(_PROOFS), False, "What must hold inside it before it gets its name."),
    "size_gib": Field(
        number(0, 1000),
        False,
        "GiB that it takes on disk, for a build without its base; the plan looks for that much room.",
    ),
    "description": Field(prose, False, "What it is for, in a few words."),
    "accept": Field(
        MapOf(RULE, "the id of an advisory", values.why),
        False,
        "Published weaknesses of its engine that you live with: id to reason, for all services that run it.",
    ),
}
_DATASET: Schema = {
    "hub": Field(values.repository, False, "Data set of the Hugging Face hub, `owner/name`."),
    "file": Field(
        values.absolute,
        False,
        "File on the host: text (`.txt`, `.md`), or a line or a row for each sample (`.jsonl`, `.parquet`) with `text` or "
        "`messages`.",
    ),
}
_DATASET_EXTRA: Schema = {
    "match": Field(text, False, "Pattern of the file in the `hub` data set; the first that matches. Required for one."),
    "revision": Field(values.branch, False, "Branch, tag or commit of the `hub` data set.", "main"),
}
_QUALITY: Schema = {
    "samples": Field(whole(1, 10_000), True, "Pieces of text that are held out."),
    "perplexity": Field(number(1, 100), True, "Largest perplexity of the result, as a multiple of the source's."),
    "kl": Field(
        number(0, 100),
        True,
        "Largest mean KL divergence of the result's next tokens from the source's, in nats a token.",
    ),
}
_RECIPE: Schema = {
    "method": Field(
        one_of(*METHODS),
        True,
        "How: weights in 4 bit (W4A16) by GPTQ or by AWQ, or weights in FP8 with activations reduced on the fly.",
    ),
    "dataset": Field(OneOf(_DATASET, _DATASET_EXTRA), True, "Text to calibrate and to measure with."),
    "quality": Field(Keys(_QUALITY), True, "What the result may cost; beyond it, it is set aside and refused."),
    "targets": Field(ListOf(pattern, 1), False, "Modules to quantize, by class or name."),
    "ignore": Field(
        ListOf(pattern),
        False,
        "Modules to leave as they are, by name or `re:` and a regular expression. Proven bit for bit afterwards.",
    ),
    "group_size": Field(
        whole(1, 4096), False, "Weights that share a scale, in 4 bit; must divide the input of each module."
    ),
    "samples": Field(whole(1, 100_000), False, "Pieces of text to calibrate with."),
    "length": Field(whole(16, 1_000_000), False, "Tokens of a piece at most."),
    "seed": Field(whole(0, 2**31 - 1), False, "Decides which pieces calibrate and which are held out."),
    "description": Field(prose, False, "What it is for, in a few words."),
}
_QUANTIZE: Schema = {
    "model": Field(name, True, "Model of this catalog to start from."),
    "recipe": Field(name, True, "Recipe: a name in `llm_recipes`."),
}
_MODEL_SOURCES: Schema = {
    "hub": Field(values.repository, False, "Repository of the Hugging Face hub, `owner/name`."),
    "package": Field(values.package, False, "Pinned Python package (`name==version`) that carries a GGUF file."),
    "path": Field(values.absolute, False, "Folder on the host, which is copied."),
    "archive": Field(
        values.absolute,
        False,
        "Tar file (plain, gzip, or zstd where the host has that program) or ZIP file on the host.",
    ),
    "quantize": Field(
        Keys(_QUANTIZE), False, "Another model and a recipe, to make it on the host; no other source beside it."
    ),
}
_MODEL_EXTRA: Schema = {
    "revision": Field(
        values.branch, False, "Branch, tag or commit of this `hub` source, when it is not the model's `revision`."
    ),
    "endpoint": Field(
        values.url, False, "Address of a mirror for this `hub` source. `llm_hub_token` is not sent there."
    ),
    "allow": Field(
        ListOf(text, 1),
        False,
        "Patterns of the files to fetch from this `hub` source. Without them, all but weights in formats that can run code.",
    ),
    "sha256": Field(values.sha256, False, "SHA-256 of the `package` or `archive`; required for a `package`."),
    "gguf": Field(values.relative, False, "Path of the GGUF file in the `package`; required for one."),
    "convert_with": Field(name, False, "Engine image in which the GGUF file is converted; required for a `package`."),
}


def _smoke_problem(value: Mapping[str, Any]) -> str:
    """What is wrong with `smoke`: question and answer come together, and a margin only with them, as it is of that answer."""
    given = [key for key in ("question", "answer") if key in value]
    if len(given) == 1:
        return f"has `{given[0]}` alone: `question` and `answer` go together"
    return "has `margin` without the `question` and `answer` that it is of" if "margin" in value and not given else ""


SMOKE: Schema = {
    "question": Field(prose, False, "What the service is asked.", "What is the capital of France?"),
    "answer": Field(prose, False, "What must be in the answer; upper and lower case count the same.", "Paris"),
    "margin": Field(
        number(0, 1000),
        False,
        "Least distance in nats between the likeliest token of the answer and the next one, up to its deciding word, as "
        "`scripts/margin.py` measures it. Below 1.5 the plan warns.",
    ),
    "max_tokens": Field(
        whole(1, 100_000), False, "Tokens that an answer may take. Models that think long need more.", 512
    ),
    "timeout": Field(
        whole(1, 3600),
        False,
        "Seconds for each check; long prompts and many requests may take up to five times that.",
        60,
    ),
    "needle": Field(
        whole(0, 100_000_000),
        False,
        "Tokens within which the model finds a word again, asked by `playbooks/smoke.yml`. Without it, its `context`.",
    ),
    "unable": Field(
        MapOf(re.compile("|".join(a.id for a in CHECKS)), "a check of docs/smoke.md", values.why),
        False,
        "Checks that the model can't pass, each with the reason. They are left out, and every verdict says so.",
        {},
    ),
    "slowest": Field(
        number(0, 1),
        False,
        "Share of its own recorded speed on this host that a release must reach. 0 asks for none.",
        0.3,
    ),
}
_MODEL: Schema = {
    "sources": Field(
        ListOf(OneOf(_MODEL_SOURCES, _MODEL_EXTRA), 1),
        True,
        "Where it comes from, tried from top to bottom until one delivers.",
    ),
    "revision": Field(values.branch, False, "Branch, tag or commit."),
    "description": Field(prose, False, "What it is, in a few words."),
    "license": Field(text, False, "Its licence, as an SPDX identifier in lower case."),
    "architecture": Field(values.word, False, "The first of `architectures` in its config.json."),
    "family": Field(values.word, False, "Models of one family take the same parsers and prompts."),
    "size_gib": Field(number(0, 4000), False, "GiB that it takes on disk; the plan looks for that much room."),
    "context": Field(whole(1, 100_000_000), False, "Tokens of context that the model declares."),
    "vision": Field(boolean, False, "Whether it sees images. Without it, rules about images say nothing."),
    "thinking": Field(
        boolean, False, "Whether it thinks before it answers. Without it, rules about thoughts say nothing."
    ),
    "quantization": Field(
        one_of(*QUANTIZATIONS), False, "How its weights were reduced. The engine reads the format from the files."
    ),
    "smoke": Field(
        Keys(SMOKE, _smoke_problem),
        False,
        "What proves that it is served right; `question` and `answer` go together.",
    ),
}
_PLUGINS: Schema = {
    "tool_parser": Field(values.relative, False, "Registers the parser that the flag `tool-call-parser` names."),
    "reasoning_parser": Field(values.relative, False, "Registers the parser that the flag `reasoning-parser` names."),
    "chat_template": Field(
        values.relative, False, "Jinja template that turns messages into a prompt, instead of the model's own."
    ),
    "middleware": Field(
        ListOf(values.middleware), False, "ASGI middleware as `file:class`, in the order in which requests meet it."
    ),
}
LIMITS: Schema = {
    "memory": Field(size, False, "Memory of the container. No limit without it."),
    "shm_size": Field(size, False, "Shared memory of the container; engines on several GPUs need more.", "1g"),
    "cpus": Field(number(0.1, 1024), False, "Number of cores. No limit without it."),
    "pids": Field(whole(64, 4_194_304), False, "Number of processes and threads.", 4096),
    "nofile": Field(whole(1024, 1_048_576), False, "Number of open files. Docker's own limit without it."),
}
WARMUP: Schema = {
    "prompt_tokens": Field(
        ListOf(whole(1, 10_000_000)), True, "Sizes of prompts in tokens; each is sent twice after the boot."
    ),
    "concurrency": Field(
        ListOf(whole(1, 1024)), False, "Numbers of prompts of the first size that are sent at once, each number twice."
    ),
    "shared_prefix": Field(
        whole(0, 10_000_000), False, "Tokens of a beginning that two prompts share. 0 sends none.", 0
    ),
    "images": Field(boolean, False, "Whether to send pictures, two.", False),
    "timeout": Field(whole(1, 3600), False, "Seconds for each of its requests.", 300),
}
LIVENESS: Schema = {
    "progress_timeout": Field(
        whole(10, 86_400),
        False,
        "Seconds without a token, with work in flight, after which the engine hangs. One that shares a model with others gets "
        "no new requests then.",
        60,
    ),
    "freeze_timeout": Field(
        whole(10, 86_400),
        False,
        "Seconds without an answer and without processor time after which its server hangs.",
        30,
    ),
    "probe_every": Field(
        whole(0, 86_400), False, "Seconds without work after which a short generation is asked for; 0 for never.", 900
    ),
    "recover": Field(boolean, False, "Whether it is restarted when it hangs; false only reports it.", True),
}
_SERVICE: Schema = {
    "image": Field(name, True, "Image that it runs in: a name in `llm_images`."),
    "model": Field(name, True, "Model that it serves: a name in `llm_models`."),
    "port": Field(whole(1, 65535), True, "Port that the gateway publishes for it."),
    "served_model_name": Field(
        values.served,
        False,
        "What clients write as `model`. Without it, the name of the model. Services share one if they have the same model.",
    ),
    "gpus": Field(
        ListOf(values.gpu_id), True, "GPUs that it gets, each declared in `llm_host_gpus`; `[]` for a CPU image."
    ),
    "hostname": Field(
        name,
        False,
        "Its name: the gateway answers for it as `api.<hostname>.<llm_domain>`. Services of one model may share one.",
    ),
    "status": Field(
        one_of(*STATUSES),
        False,
        "Active services run; a fallback runs when nothing active takes its port or GPUs; the others only when forced.",
    ),
    "reason": Field(prose, False, "Why it has its status; required for archived and rejected ones."),
    "state": Field(one_of(*STATES), False, "Whether it is to run, to be kept stopped, or to be removed."),
    "description": Field(prose, False, "What it is for, in a few words."),
    "args": Field(
        MapOf(FLAG, "an engine flag without its dashes", values.flag_value),
        False,
        "The engine's flags, under its own names. true is the bare flag, "
        "false `--no-<flag>`, a list its values one after the other, a mapping JSON.",
    ),
    "env": Field(
        MapOf(ENV_NAME, "an environment name", values.env_value),
        False,
        "The engine's environment, beside what the project sets (caches, no calls home).",
    ),
    "plugins": Field(
        Keys(_PLUGINS),
        False,
        "Files that the engine loads, from `files/` beside the inventory's hosts file, or `files/` of the project.",
    ),
    "volumes": Field(
        ListOf(values.mount), False, "More mounts, in Compose's short form (`/on/host:/in/container:ro`)."
    ),
    "limits": Field(Keys(LIMITS), False, "What the container may take."),
    "boot_timeout": Field(
        whole(10, 86_400),
        False,
        "Seconds until the engine must be ready; less once its boots are on record (ten times the slowest, and 900 in any case).",
    ),
    "stop_grace": Field(whole(1, 3_600), False, "Seconds that a stopped engine gets to end."),
    "drain": Field(whole(0, 3_600), False, "Seconds for running requests to end before a stop."),
    "smoke": Field(Keys(SMOKE, _smoke_problem), False, "What proves it, key by key over the model's `smoke`."),
    "warmup": Field(Keys(WARMUP), False, "What it computes before clients reach it. No warm-up without it."),
    "accept": Field(
        MapOf(RULE, "the id of a rule", values.why),
        False,
        "Rules that it may break: id (docs/reference/rules.md) to the reason, which every plan shows.",
    ),
    "liveness": Field(Keys(LIVENESS), False, "When it counts as hung, and whether it is brought back then."),
}
_GPU: Schema = {
    "index": Field(whole(0, 63), True, "Its number, as `nvidia-smi -L` shows it."),
    "uuid": Field(values.uuid, False, "Its UUID there. With it a renumbered GPU keeps its services."),
    "model": Field(text, True, "Its product name there."),
    "memory": Field(size, True, "Its memory."),
}


def _certificate_problem(value: Any) -> str:
    """What is wrong with the gateway's certificate: file and key come together, and not beside `acme`."""
    if value.get("acme") and (value.get("certificate") or value.get("key")):
        return "has `acme` beside `certificate` and `key`: a certificate comes from one of them"
    return (
        ""
        if bool(value.get("certificate")) == bool(value.get("key"))
        else "has one of `certificate` and `key`: give both"
    )


def _agreed(value: Any) -> str:
    """What is wrong with `terms_agreed`: consent has to be written."""
    return "" if value is True else f"must be true once you have read the server's terms of service, got {said(value)}"


ACME: Schema = {
    "email": Field(values.email_address, True, "Address of the account, to which the server may write."),
    "terms_agreed": Field(_agreed, True, "You agree to the terms of service of the server."),
    "server": Field(
        values.https_url,
        False,
        "Directory of the ACME server.",
        "https://acme-v02.api.letsencrypt.org/directory",
    ),
    "ca_file": Field(
        values.safe_path,
        False,
        "File on the host with the CA (PEM) by which the server itself is trusted, where it is your own. "
        "It may then give certificates for names that the public DNS does not have.",
        "",
    ),
}
GATEWAY: Schema = {
    "https_port": Field(
        whole(0, 65535), False, "Port of the gateway for all services, with TLS and HTTP/2; 0 for none.", 443
    ),
    "http_port": Field(
        whole(0, 65535), False, "Port that sends browsers and clients on to `https_port`; 0 for none.", 80
    ),
    "ports_address": Field(
        values.either("none", values.address),
        False,
        "Address on which the services' own ports, which have no TLS, are published: `127.0.0.1` keeps them to the host itself. "
        "Without it, that of `llm_bind_address`.",
        "",
    ),
    "names": Field(
        ListOf(values.domain),
        False,
        "Further names and addresses of this host, under which the model in a request picks the service. "
        "`api.<llm_domain>`, localhost and `llm_bind_address` are such names already.",
        (),
    ),
    "certificate": Field(
        values.absolute,
        False,
        "File on the host with a certificate and its chain (PEM). Without it an authority of the host's own issues one, "
        "and renews it: clients trust `gateway/ca/ca.pem` below `llm_root`.",
        "",
    ),
    "key": Field(values.absolute, False, "File on the host with the certificate's private key (PEM).", ""),
    "acme": Field(
        Keys(ACME),
        False,
        "An ACME server from which the certificate comes, and by which it is renewed on the host. "
        "It has to reach port 80 of every name.",
        {},
    ),
    "wait": Field(
        whole(0, 3600), False, "Seconds that a request waits for a service that is being replaced, or for its turn.", 60
    ),
    "body_limit": Field(size, False, "Largest body of a request.", "32m"),
}
SETTINGS: Schema = {
    "root": Field(
        values.safe_path,
        False,
        "Folder of the project on the host; an absolute path.",
    ),
    "accelerator": Field(one_of("cpu", "nvidia"), False, "What the host's engines compute on."),
    "gpu_runtime": Field(
        one_of("cdi", "nvidia"),
        False,
        "How containers get GPUs: as CDI devices (`nvidia.com/gpu=0`), or by Docker's NVIDIA device driver.",
    ),
    "bind_address": Field(
        values.address,
        False,
        "Address of the published ports, IPv4 or IPv6. Docker's ports bypass ufw, so any but loopback is reachable from outside.",
    ),
    "domain": Field(
        values.either("none", values.domain),
        False,
        "Domain of the services' host names (`api.<hostname>.<domain>`); without it they have none.",
    ),
    "engine_uid": Field(whole(1, 4_294_967_293), False, "Numeric user of the engines."),
    "wheelhouse": Field(
        values.either("none", text),
        False,
        "Folder on the controller with Python packages that builds and pip look into first. "
        "group_vars/all/project.yml takes it from PIP_FIND_LINKS, if that is one folder.",
    ),
    "ca_bundle": Field(
        values.either("none", text),
        False,
        "CA bundle on the controller that downloads and builds trust. "
        "group_vars/all/project.yml takes it from SSL_CERT_FILE, if that is a file.",
    ),
    "hub_endpoint": Field(
        values.either("huggingface.co", values.url),
        False,
        "Address of the hub, or of a mirror that stands for it; empty for huggingface.co. `llm_hub_token` is sent there. "
        "group_vars/all/project.yml takes it from HF_ENDPOINT.",
    ),
    "supervisor": Field(
        boolean,
        False,
        "Watch the engines of the host, and bring back those that hang. A supervisor that runs goes only with `llm_prune`.",
    ),
    "supervisor_interval": Field(whole(2, 20), False, "Seconds between two looks at an engine; a verdict takes three."),
    "supervisor_recoveries": Field(
        whole(0, 100), False, "Recoveries of a service within an hour after which it is stopped instead."
    ),
    "offline": Field(
        boolean, False, "The host has no network: what is missing and only the network has is refused at once."
    ),
    "prune": Field(
        boolean,
        False,
        "Remove engines that the declaration does not want, before anything is started, and in the end images and models that "
        "nothing needs. A run that would take the last service, the gateway or the supervisor from a host that serves is refused "
        "without it. For the command line: `-e llm_prune=true`.",
    ),
    "verify": Field(
        one_of("quick", "deep"),
        False,
        "How playbooks/verify_models.yml looks: at sizes, headers and index, or also at every byte. For the command line.",
    ),
    "repair": Field(
        boolean,
        False,
        "Whether playbooks/verify_models.yml fetches damaged files again. For the command line: `-e llm_repair=true`.",
    ),
    "force": Field(
        ListOf(name),
        False,
        "Archived or rejected services to deploy all the same. For the command line: `-e llm_force=name`.",
    ),
    "switch": Field(
        ListOf(name),
        False,
        "Services that take the place of those they clash with, in runs that name them: `-e llm_switch=name`. "
        "In the host's variables it stays.",
    ),
    "gateway": Field(
        Keys(GATEWAY, _certificate_problem), False, "The gateway of the host, where another one is wanted."
    ),
}


_LOCK: Schema = {
    "images": Field(
        MapOf(re.compile(r"[^\s@]+"), "a reference without a digest", values.digest),
        False,
        "Digest of each reference that an image's `pull` names by its tag.",
    ),
    "models": Field(
        MapOf(re.compile(r"[^\s@]+@\S+"), "a repository and a branch (owner/name@branch)", values.commit),
        False,
        "Commit of each `owner/name@branch` that a model's `hub` and `revision` name.",
    ),
}


def _by_name(shape: Schema) -> MapOf:
    return MapOf(NAME, "a name", Keys(shape))


# What inventories set beside the settings, by its full name.
VARIABLES: Schema = {
    "llm_images": Field(_by_name(_IMAGE), False, "Images that come with the project."),
    "llm_images_custom": Field(_by_name(_IMAGE), False, "Yours: mappings are merged over `llm_images`, lists replace."),
    "llm_models": Field(_by_name(_MODEL), False, "Models that come with the project."),
    "llm_models_custom": Field(_by_name(_MODEL), False, "Yours: mappings are merged over `llm_models`, lists replace."),
    "llm_recipes": Field(_by_name(_RECIPE), False, "Ways to quantize that come with the project."),
    "llm_recipes_custom": Field(
        _by_name(_RECIPE), False, "Yours: mappings are merged over `llm_recipes`, lists replace."
    ),
    "llm_services": Field(_by_name(_SERVICE), False, "Services that come with the project."),
    "llm_services_custom": Field(
        _by_name(_SERVICE), False, "Yours: mappings are merged over `llm_services`, lists replace."
    ),
    "llm_lock": Field(
        Keys(_LOCK),
        False,
        "What tags and branches of the catalogs stand for. `playbooks/lock.yml` writes it, "
        "to `group_vars/all/llm_lock.yml` of the inventory.",
    ),
    "llm_host_services": Field(
        ListOf(name), False, "Services that the host runs; `[]` for none. A host without it is refused."
    ),
    "llm_host_gpus": Field(ListOf(Keys(_GPU)), False, "GPUs of the host."),
    "llm_service_keys": Field(
        MapOf(NAME, "the name of a service", values.secret),
        False,
        "Client key of a service, by its name; from a vault. Without it a random one is made on the host.",
    ),
    "llm_hub_token": Field(values.secret, False, "Token of the Hugging Face hub, for gated models; from a vault."),
    "llm_pip_mirror": Field(
        values.secret_url, False, "Index that image builds use in place of PyPI; with a password in it, from a vault."
    ),
    "llm_key_do": Field(
        one_of("list", "create", "rotate", "revoke", "rotate-engine", "leaks"),
        False,
        "What playbooks/keys.yml does. This and the next seven are for the command line.",
        "list",
    ),
    "llm_key_client": Field(name, False, "Client whose key it is; to revoke, also the id of one key."),
    "llm_key_services": Field(ListOf(name), False, "Services that a new key is for, or `*` for all."),
    "llm_key_per_minute": Field(whole(1, 1_000_000), False, "Requests a minute. No limit without it."),
    "llm_key_at_once": Field(whole(1, 100_000), False, "Requests under way at a time. No limit without it."),
    "llm_key_queue": Field(whole(0, 100_000), False, "Requests that may wait beyond that.", 0),
    "llm_key_expires": Field(text, False, "End of a new key: `90d`, `12h`, or a date. Never without it."),
    "llm_key_overlap": Field(text, False, "How long older keys go on after a rotation.", "24h"),
    "llm_usage_since": Field(
        text,
        False,
        "From when on playbooks/usage.yml counts: `30m`, `24h`, `7d`, or a date. For the command line.",
        "24h",
    ),
    "llm_report_dir": Field(
        text, False, "Folder on the controller for plan.json, verdict.json and their page.", "reports"
    ),
}


OTHERS = ("llm_hub_token", "llm_pip_mirror", "llm_report_dir")  # variables that are neither catalogs nor settings
