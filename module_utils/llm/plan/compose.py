"""From a service to what Docker Compose runs: names, command line, compose document, release.

A release is everything that decides how an engine behaves: image id, command, environment, mounted files, model, limits.
Its hash names its folder and container, so a changed release never meets its predecessor's files, and an unchanged one
is recognised by comparing two strings.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import yaml
from ansible.module_utils.llm import VERSION
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.declare.facts import ComposeDocument, Content, Reason, ReleaseFacts
from ansible.module_utils.llm.declare.objects import Declared, Gpu, Image, Model, Service, Settings
from ansible.module_utils.llm.declare.variables import LIMITS

SECRET = "/run/secrets/engine.yml"  # noqa: S105 - a path
FORMAT = 1  # raise when rendering changes on purpose: every engine restarts once, and the reason says so


@dataclasses.dataclass(frozen=True)
class Release:
    """What one service would run. `files`: path in the release folder -> content. `facts`: what its hash covers."""

    service: str
    hash: str
    facts: ReleaseFacts
    compose: ComposeDocument
    files: Mapping[str, str]

    @property
    def container(self) -> str:
        """Name of the container and of the compose project."""
        return names.container_name(self.service, self.hash)


def service_dir(settings: Settings, service: str) -> str:
    """Folder of a service on its host."""
    return f"{settings.root}/services/{service}"


def release_dir(settings: Settings, service: str, release: str) -> str:
    """Folder of one release on its host."""
    return f"{service_dir(settings, service)}/releases/{release}"


def model_dir(settings: Settings, model: Model) -> str:
    """Folder of one revision of a model on its host."""
    return f"{settings.root}/models/{model.name}/{model.revision.replace('/', '_')}"


def key_file(settings: Settings, service: str) -> str:
    """File with the key that clients of a service send."""
    return f"{settings.root}/keys/{service}"


def image_ref(image: Image) -> str:
    """The reference that containers run.

    An image that is only ever pulled keeps its own name (tag or digest). One with other sources, or with proofs to hold
    before it has a name, gets a local one that changes with its recipe: a changed recipe is a new image and never
    silently reuses the old one.
    """
    pulls = [str(s["pull"]) for s in image.sources if "pull" in s]
    if len(pulls) == len(image.sources) and not image.proofs:
        return pulls[0]
    recipe: Any = list(image.sources)
    if image.proofs or image.on:
        recipe = {"sources": recipe, "proofs": image.proofs, "on": image.on}
    return f"{names.LOCAL}{image.name}:{image.engine.get('version', '0')}-{names.digest(recipe)[:8]}"


def engine_argv(service: Service) -> list[str]:
    """Arguments after `vllm serve`, sorted by flag; the key comes from a file, so nothing here is secret."""
    flags: dict[str, Any] = {
        "served-model-name": service.served_model_name,
        "host": "0.0.0.0",  # noqa: S104 - inside the container, whose network only the gateway shares
        "port": names.ENGINE_PORT,
        **service.args,
    }
    plugins = service.plugins
    for key, flag in (
        ("tool_parser", "tool-parser-plugin"),
        ("reasoning_parser", "reasoning-parser-plugin"),
        ("chat_template", "chat-template"),
    ):
        if key in plugins:
            flags[flag] = f"/plugins/{_file_name(plugins[key])}"
    argv = ["/model"]
    for flag in sorted(flags):
        argv += _flag(flag, flags[flag])
    for entry in plugins.get("middleware", ()):
        path, _, attribute = str(entry).rpartition(":")
        argv += ["--middleware", f"{PurePosixPath(path).stem}.{attribute}"]
    return [*argv, "--config", SECRET]


def _flag(flag: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return [f"--no-{flag}"]
    if isinstance(value, Mapping):
        return [f"--{flag}", json.dumps(value, sort_keys=True)]
    if isinstance(value, (list, tuple)):
        return [f"--{flag}", *(str(v) for v in value)]
    return [f"--{flag}", str(value)]


def _file_name(path: str) -> str:
    return PurePosixPath(path).name


def plugin_files(service: Service) -> list[str]:
    """Files (as declared) that the service's plugins need."""
    single = [service.plugins[k] for k in ("tool_parser", "reasoning_parser", "chat_template") if k in service.plugins]
    return [*single, *(str(m).rpartition(":")[0] for m in service.plugins.get("middleware", ()))]


def environment(service: Service) -> dict[str, str]:
    """Environment of the engine: caches on the cache volume, no calls home, then the service's own."""
    return {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/cache/home",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
        "TRITON_CACHE_DIR": "/cache/triton",
        "USER": "engine",  # torch asks for a user name, and a numeric user has none in /etc/passwd
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "VLLM_NO_USAGE_STATS": "1",
        "XDG_CACHE_HOME": "/cache/xdg",
        **({"PYTHONPATH": "/plugins"} if service.plugins.get("middleware") else {}),
        **service.env,
    }


def _devices(service: Service, gpus: tuple[Gpu, ...], runtime: str) -> list[dict[str, Any]]:
    """The reservation of exactly the declared GPUs, by UUID where the host declares it (an index can move)."""
    if not service.gpus:
        return []
    by_index = {gpu.index: gpu for gpu in gpus}
    ids = [str(by_index[g].uuid or g) if isinstance(g, int) and g in by_index else str(g) for g in service.gpus]
    if runtime == "cdi":
        return [{"driver": "cdi", "device_ids": [f"nvidia.com/gpu={i}" for i in ids], "capabilities": ["gpu"]}]
    return [{"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}]


def release(
    declared: Declared,
    service: Service,
    image_id: str | None = None,
    model_digest: str | None = None,
    plugins: Mapping[str, str] | None = None,
    gateway_key: str = "",
) -> Release:
    """Render a service.

    image_id: id of its image on the host (`sha256:...`), None while it is not there. model_digest: digest of the model's
    manifest on the host, None while it is not there. plugins: file name -> content of the service's plugin files.
    gateway_key: fingerprint of the key between gateway and engine, once it has been rotated: a release of its own can start beside
    the one that has the key of before.
    """
    settings, image, model = declared.settings, declared.images[service.image], declared.models[service.model]
    files = {f"plugins/{file}": content for file, content in (plugins or {}).items()}
    known = {
        "service": service.name,
        "image": image_ref(image),
        "image_id": image_id or names.UNKNOWN_IMAGE,
        "command": engine_argv(service),
        "environment": environment(service),
        "uid": settings.engine_uid,
        "limits": {**{key: LIMITS[key].default for key in ("shm_size", "pids")}, **service.limits},
        "devices": _devices(service, declared.gpus, settings.gpu_runtime),
        "network": names.NETWORK,
        "port": names.ENGINE_PORT,
        "stop_grace": service.stop_grace,
        "boot_timeout": service.boot_timeout,
        "secret": SECRET,
        "plugins": bool(files),
        "volumes": list(service.volumes),
        "model_folder": model_dir(settings, model),
        "cache_folder": f"{settings.root}/cache/{names.cache_key(image_id)}",
        "version": VERSION,
    }
    # What has the hash in it (mounts, name, labels) cannot be hashed: it is filled in afterwards.
    engine = _rendered({**known, **dict.fromkeys(("container", "folder", "release", "config_hash"), "")})["services"][
        "engine"
    ]
    facts: ReleaseFacts = {
        "format": FORMAT,
        "image": {"ref": engine["image"], "id": image_id or names.UNKNOWN_IMAGE},
        "model": {"name": model.name, "revision": model.revision, "manifest": model_digest or names.UNKNOWN_IMAGE},
        "command": engine["command"],
        "environment": engine["environment"],
        "files": {path: hashlib.sha256(content.encode()).hexdigest() for path, content in files.items()},
        "volumes": list(service.volumes),
        "container": {k: v for k, v in engine.items() if k not in _APART},
    }
    if gateway_key:
        facts["door_key"] = gateway_key  # hashed under the name that releases on hosts have
    whole = names.digest(facts)
    name = whole[:12]
    container, folder = names.container_name(service.name, name), release_dir(settings, service.name, name)
    document = _rendered({**known, "container": container, "folder": folder, "release": name, "config_hash": whole})
    return Release(service.name, name, facts, document, files)


_APART = ("image", "command", "environment", "volumes", "container_name", "labels")  # not hashed with the container
_SURROGATES = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")


def _json(value: Any) -> str:
    """A value as JSON that YAML reads as the same: beyond 16 bits the two escape characters differently."""

    def whole(pair: re.Match[str]) -> str:
        high, low = (int(half, 16) for half in pair.groups())
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _SURROGATES.sub(whole, json.dumps(value))


@functools.cache
def _template() -> jinja2.Template:
    folder = Path(__file__).resolve().parents[3] / "roles" / "vllm_service" / "templates"
    # No HTML: values are quoted as JSON.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)  # noqa: S701
    environment.filters["json"] = _json
    return environment.from_string((folder / "compose.yml.j2").read_text(encoding="utf-8"))


def _rendered(values: Mapping[str, object]) -> Any:
    """The document that role vllm_service's template makes of these values."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(_template().render(values), Loader=loader)  # noqa: S506 - both are safe loaders


def reasons(old: ReleaseFacts | None, new: ReleaseFacts) -> list[Reason]:
    """Why a release differs from the one that runs: [{name, current, desired}], one entry a changed thing.

    Flags and environment variables are compared one by one; everything else by key.
    """
    if old is None:
        return [{"name": "release", "current": None, "desired": "first deployment"}]
    found: list[Reason] = []
    before, after = _flags(old.get("command", [])), _flags(new["command"])
    found += _changes("flag --", before, after)
    found += _changes("environment ", old.get("environment", {}), new["environment"])
    # A release of an older version may lack a part.
    parts: dict[str, tuple[Content, Content]] = {
        "image": (old.get("image", {}), new["image"]),
        "model": (old.get("model", {}), new["model"]),
        "files": (old.get("files", {}), new["files"]),
        "container": (old.get("container", {}), new["container"]),
    }
    for part, (was, now) in parts.items():
        found += _changes(f"{part} ", was, now)
    found += _changes("", {"volumes": old.get("volumes", [])}, {"volumes": new["volumes"]})
    name = "key between gateway and engine"
    found += _changes("", {name: old.get("door_key")}, {name: new.get("door_key")})
    found += _changes("", {"format": old.get("format")}, {"format": new["format"]})
    return found


def _changes(prefix: str, old: Content, new: Content) -> list[Reason]:
    keys = sorted({*old, *new})
    return [
        {"name": f"{prefix}{k}", "current": old.get(k), "desired": new.get(k)} for k in keys if old.get(k) != new.get(k)
    ]


def _flags(argv: list[str]) -> dict[str, str]:
    """`--flag value value` lists as a mapping; a repeated flag keeps all its values, a bare one has the value `set`."""
    flags: dict[str, str] = {}
    current = ""
    for word in argv:
        if word.startswith("--"):
            current = word[2:]
            flags.setdefault(current, "")
        elif current:
            flags[current] = f"{flags[current]} {word}".strip()
    return {flag: value or "set" for flag, value in flags.items()}
