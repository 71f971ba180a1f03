"""What a valid declaration becomes: images, models, recipes, services, GPUs and settings as typed objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


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
