"""What a plan says and hands over, as types. RETURN of module llm_plan describes the same for people.

A plan is JSON in the end, so that these are dictionaries, and a list may still be a tuple. What inventories write for an engine,
a build or a check is `object`: others read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from ansible.module_utils.llm.declare.facts import (
    BootRecord,
    Content,
    Processor,
    Reason,
    ReleaseFacts,
    Route,
    Serving,
    StoredModel,
)

# ---------------------------------------------------------------------------------------------------------------------
# plan.json.


class KvTokens(TypedDict):
    """Tokens that the KV cache holds by the estimate, None where it is not known."""

    low: int | None
    high: int | None


class _Estimated(TypedDict, total=False):
    fit: Content  # see estimate.Fit.as_dict


class Verdict(_Estimated):
    """What the plan says of a service. verdict: ok, warn or refuse. findings: see Finding.as_dict."""

    verdict: str
    findings: list[dict[str, str]]
    gpus: list[int | str]
    kv_tokens: KvTokens


class Document(TypedDict):
    """The content of plan.json. findings: those of the host."""

    services: dict[str, Verdict]
    findings: list[dict[str, str]]


# ---------------------------------------------------------------------------------------------------------------------
# Services.


class ReturnPlan(Serving, total=False):
    """What role vllm_service is given of a release that returns. side_by_side: whether it fits beside the one that runs."""

    side_by_side: bool


class ServicePlan(ReturnPlan, total=False):
    """What role vllm_service is given of a service. boot_records: by release.

    facts, files: of the release, only where its files are to be written.
    """

    verdict: str
    findings: list[dict[str, str]]
    kv_tokens: KvTokens
    fit: Content
    boot_records: Mapping[str, BootRecord]
    side_by_side_why: str
    facts: ReleaseFacts
    files: dict[str, str]


class ContainerRef(TypedDict):
    """A container of a service, by its name."""

    service: str
    container: str


class StatedContainer(ContainerRef):
    """The same with the state that it has, or is to have."""

    state: str


class Deployment(TypedDict):
    """A service to deploy, and why. restart: whether its engine has to start anew. displaces: containers that stop first."""

    name: str
    reasons: Sequence[Reason]
    restart: bool
    displaces: list[ContainerRef]


class Return(TypedDict):
    """A service that goes back to the release before. keep: how an operator keeps that one."""

    name: str
    reasons: list[Reason]
    plan: ReturnPlan
    keep: str


class RollbackPlan(TypedDict):
    """What playbooks/rollback.yml does. problem: why it is refused, "" when it is not."""

    problem: str
    services: list[Return]


class EngineRequest(TypedDict):
    """A command line with its environment and plugin files, which an image has to accept."""

    argv: list[str]
    env: dict[str, str]
    files: Mapping[str, str]


class PreflightModel(TypedDict, total=False):
    """A model as it lies on the host, by its digest; or its config.json, while it is not there; or {}, where nobody knows it."""

    folder: str
    digest: str
    config: Content


class PreflightRequest(EngineRequest):
    """What one service asks of its image."""

    model: PreflightModel


class PreflightJob(TypedDict):
    """What module llm_preflight puts to an image. image_id: "" while it is not there. records: folder of what has passed."""

    image: str
    image_id: str
    records: str
    services: dict[str, PreflightRequest]


# ---------------------------------------------------------------------------------------------------------------------
# Images and models.


class ImageName(TypedDict):
    """A name of an image on the host. size: bytes."""

    name: str
    id: str
    size: int


class ImageJob(TypedDict):
    """What role vllm_image is given of an image. services: those whose command lines it has to accept; bases: of its builds."""

    name: str
    ref: str
    sources: Sequence[Content]
    proofs: Content
    services: dict[str, EngineRequest]
    bases: list[ImageJob]


class QuantizeSource(TypedDict):
    """The model that another is made of."""

    name: str
    folder: str


class QuantizeJob(TypedDict):
    """What module llm_quantize takes beside name and folder. devices: Docker's arguments for one GPU, [] for none."""

    source: QuantizeSource
    recipe: Content
    image: str
    devices: list[str]


class _ModelParts(TypedDict, total=False):
    quantize: QuantizeJob  # only of one that is made on the host
    fetch_missing: bool  # only where it is verified: whether a repair fetches one that is not there


class ModelJob(_ModelParts):
    """What role model_store is given of a model. images: reference by name, of those that convert it."""

    name: str
    present: bool
    revision: str
    folder: str
    sources: Sequence[Content]
    size_gib: float
    images: dict[str, str]


# ---------------------------------------------------------------------------------------------------------------------
# The host.


class GatewayPlan(TypedDict):
    """The gateway as roles gateway and vllm_service are given it. acme_image: "" where no certificate is asked for."""

    routes: list[Route]
    settings: Content
    image: str
    acme_image: str
    root: str
    bind_address: str


class WatchedService(TypedDict):
    """What the supervisor knows of a service. rules: those of `liveness`, and boot_timeout."""

    model: str
    rules: dict[str, int]


class SupervisorConfig(TypedDict):
    """The supervisor's config.json. interval: seconds."""

    interval: int
    recoveries: int
    services: dict[str, WatchedService]


class SupervisorPlan(TypedDict):
    """What role engine_supervisor is given. image: reference of one with Python, "" when nothing is watched."""

    image: str
    config: SupervisorConfig


class HostWants(TypedDict):
    """What module llm_host_facts is to look for. models: folder by name. gpus: whether to look for GPUs."""

    root: str
    images: list[str]
    models: dict[str, str]
    texts: list[str]
    services: Sequence[str]
    ports: list[int]
    gateway: Content
    gpus: bool


class Work(TypedDict):
    """What differs, and what is to be done about it. orphans: to be reported; removed: the same with llm_prune."""

    deploy: list[Deployment]
    stale: list[ContainerRef]
    stop: list[StatedContainer]
    orphans: list[StatedContainer]
    removed: list[StatedContainer]
    prune_images: list[ImageName]
    prune_models: list[StoredModel]
    prove: Sequence[str]
    preflight: list[PreflightJob]


StatusParts = TypedDict(
    "StatusParts",
    {
        "quantized": str,
        "gpus": "list[str]",
        "a run would": "list[str]",
        "last attempt": str,
        "findings": "list[str]",
    },
    total=False,
)
"""What status says of a service only where there is something to say."""


class StatusEntry(StatusParts):
    """Declared beside real, of one service, in words; see status.status."""

    declared: str
    real: str
    release: str
    proven: str
    port: int
    model: str
    image: str
    act: str


# ---------------------------------------------------------------------------------------------------------------------
# All of it.


class About(TypedDict):
    """What reports tell of a service beside what it answered. model: as clients call it. release: "" without one."""

    model: str
    description: str
    release: str


class Machine(TypedDict, total=False):
    """What reports tell of the host; {} before it is read."""

    processor: Processor


class ClientEntry(TypedDict):
    """What role client_config is given of a service. declared: see programs.facts."""

    service: str
    url: str
    declared: Content


class _Found(TypedDict, total=False):
    work: Work
    rollback: RollbackPlan
    status: dict[str, StatusEntry]
    status_table: str


class Plan(_Found):
    """The plan of a host; with its facts also work, rollback and status.

    services: those of the host, by name; `deployed` are to run, and `selected` are those that the tags select. settings: by name,
    without `llm_`. images, models: to be made; models_here: to be verified.
    """

    services: dict[str, ServicePlan]
    findings: list[dict[str, str]]
    table: str
    stages: Sequence[str]
    todo: list[str]
    selected: Sequence[str]
    named: Sequence[str]
    declared_services: list[str]
    deployed: Sequence[str]
    about: dict[str, About]
    machine: Machine
    clients: list[ClientEntry]
    settings: Content
    images: list[ImageJob]
    models: list[ModelJob]
    models_here: list[ModelJob]
    host: HostWants
    supervisor: SupervisorPlan
    gateway: GatewayPlan
