"""What a host reports, what a release is, and what a plan says, as types: shapes that room host fills and room plan reads.

Modules return JSON, so that these are dictionaries. RETURN of llm_host_facts and llm_plan describe the same for people. What is
somebody else's (a model's config.json, daemon.json, Docker's own words) is `object` until whoever reads it has checked it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from ansible.module_utils.llm.base.dpkg import Package
from ansible.module_utils.llm.base.lease import HostLease

Content = Mapping[str, object]
"""A JSON object of somebody else's making."""


class Distribution(TypedDict):
    """The distribution, by its os-release file; "" for what that does not say."""

    id: str
    version: str
    codename: str


class System(Distribution):
    """The distribution, whether systemd is PID 1, whether this is WSL2."""

    systemd: bool
    wsl: bool


class RepositoryKey(TypedDict):
    """The key of Docker's repository; "" and [] without one."""

    sha256: str
    fingerprints: list[str]


class DockerAnswer(TypedDict):
    """What Docker says of itself. version: None where it does not answer."""

    running: bool
    version: str | None
    runtimes: list[str]
    cdi: bool
    live_restore: bool


class DaemonSettings(TypedDict):
    """What a Docker daemon runs with: settings as daemon.json has them, and variables of its environment."""

    settings: dict[str, object]
    environment: dict[str, str]


class DaemonFiles(DaemonSettings):
    """What is in the daemon's files. problem: why daemon.json can't be read, "". loaded: None where it runs with what they say."""

    file: str
    problem: str
    loaded: DaemonSettings | None


class DockerFiles(TypedDict):
    """What of Docker can be read without asking it. process: its pid. outdated: its program was replaced while it ran.

    repositories: by apt's source file, {urls, suites}.
    """

    process: int | None
    outdated: bool
    daemon: DaemonFiles
    packages: dict[str, Package]
    repositories: dict[str, dict[str, list[str]]]
    repository_key: RepositoryKey


class Docker(DockerAnswer, DockerFiles):
    """Docker on a host: see docker/host.py and module llm_host_facts. version, error: None where there is none."""

    installed: bool
    compose_version: str | None
    error: str | None
    root: str
    named: str
    swarm: bool
    running_containers: int


class OwnedImage(TypedDict):
    """A name of an image that this project made or brought. size: bytes. containers: names of those that use it."""

    name: str
    id: str
    size: int
    containers: list[str]


class Proof(TypedDict):
    """What an image was asked, whether it held, and by what that was seen."""

    proof: str
    ok: bool
    evidence: str


class ImageRecord(TypedDict):
    """What was written down when an image was made. names: those that came along. found: what a build found in its base."""

    id: str
    source: str
    names: list[str]
    found: list[str]
    proofs: list[Proof]


class Container(TypedDict):
    """A container of an engine. made_of: Compose's hash of its settings."""

    id: str
    name: str
    service: str
    release: str
    state: str
    status: str
    image_id: str
    made_of: str
    ip: str


class ForeignContainer(TypedDict):
    """A container that is not ours and may be in the way. writes: folders of the host."""

    name: str
    image: str
    state: str
    writes: list[str]


class Listener(TypedDict):
    """Who listens on a port; pid is None where it may not be read."""

    pid: int | None
    process: str


class ReleaseImage(TypedDict):
    """Reference and id of the image that a release runs."""

    ref: str
    id: str


class ReleaseModel(TypedDict):
    """The model that a release loads. manifest: digest of its files."""

    name: str
    revision: str
    manifest: str


class _Rotated(TypedDict, total=False):
    door_key: str  # fingerprint of the key between gateway and engine, once that was rotated


class ReleaseFacts(_Rotated):
    """All that decides how an engine behaves, which is what the hash of a release covers. files: path to SHA-256."""

    format: int
    image: ReleaseImage
    model: ReleaseModel
    command: list[str]
    environment: dict[str, str]
    files: dict[str, str]
    volumes: list[str]
    container: Content


class ComposeDocument(TypedDict):
    """What Docker Compose runs for a release: one service, `engine`, whose keys are Compose's own."""

    name: str
    services: dict[str, dict[str, object]]
    networks: dict[str, dict[str, object]]


class _Restart(TypedDict, total=False):
    file_only: bool  # a file that no engine reads while it runs


class Reason(_Restart):
    """Why something differs from its declaration: one thing, as it is and as it should be."""

    name: str
    current: object
    desired: object


class Way(TypedDict, total=False):
    """How the gateway leads to a service. at_once: requests that its engine works on, 0 if it decides.

    progress_timeout: seconds without a token; only where it is declared. stopped, returns_in (seconds): only while nothing is
    behind it. Of a release that an older version of this project made, the port alone may be known.
    """

    port: int
    model: str
    hostname: str
    at_once: int
    progress_timeout: int
    stopped: bool
    returns_in: int


class Route(Way):
    """The way to a service now. container: "" while it has none."""

    service: str
    container: str


class Ask(TypedDict):
    """What a service is asked: option `ask` of the modules llm_smoke and llm_warmup. Values are those of the inventory."""

    smoke: dict[str, object]
    warmup: dict[str, object]


class _OlderServing(TypedDict, total=False):
    args: Content
    accelerator: str
    smoke: Content
    warmup: Content


class Serving(_OlderServing, total=False):
    """What of a service's plan is kept with a release, so that it can be started and proven again (see plan/handover.py).

    A release keeps what the version of this project that made it knew. args, accelerator, smoke, warmup: where later ones have
    `ask`. drain, boot_timeout: seconds. stopped: it is not to serve until somebody deploys it.
    """

    gpus: list[int | str]
    name: str
    release: str
    container: str
    folder: str
    service_folder: str
    cache: str
    key_file: str
    image: str
    model_folder: str
    record_folder: str
    record_key: Content
    history_folder: str
    served_model_name: str
    model: str
    port: int
    route: Way
    engine_keys_file: str
    boot_timeout: int
    drain: int
    ask: Ask
    status: str
    state: str
    stopped: bool


class FailedDeployment(TypedDict):
    """A deployment that failed, by what is kept of it in `folder`. cause: in short."""

    at: str
    release: str
    step: str
    cause: str
    folder: str


class Attempt(FailedDeployment):
    """The last failed deployment of a service. proven_since: whether the current release gave right answers after it."""

    proven_since: bool


class KnownAnswer(TypedDict):
    """The known answer of a release and the margin that its engine showed, None where it gives no log-probabilities."""

    question: str
    answer: str
    margin: float | None


class Before(TypedDict):
    """The release that a service can go back to. missing: what it lacks to run again."""

    serving: Serving | None
    facts: ReleaseFacts | None
    missing: list[str]


class Releases(TypedDict):
    """Releases of a service: see host/read.release."""

    current: str | None
    previous: str | None
    facts: ReleaseFacts | None
    drift: list[str]
    proven: bool
    known: KnownAnswer | None
    serving: Serving | None
    started: str
    before: Before | None
    attempt: Attempt | None


class Quality(TypedDict, total=False):
    """What quantizing cost, measured on texts that were held out; see models/quantize.summary."""

    perplexity_source: float | None
    perplexity: float | None
    loss_source: float | None
    loss: float | None
    kl: float | None
    same_top: float
    tokens: int


class _Source(TypedDict, total=False):
    source_digest: str
    text: Content  # that it was quantized with


class Made(_Source):
    """How a model was made on the host."""

    mark: str
    of: str
    recipe: str
    quality: Quality
    packed: int
    untouched: int


class ModelFacts(TypedDict):
    """What an estimate of memory needs of a model: its config.json, and its tensors by kind; see models/artifacts.summary."""

    config: Content
    tensors: list[list[object]]


class _Whole(TypedDict, total=False):
    config: Content
    tensors: list[list[object]]
    made: Made | None
    refused: Made
    aside: str
    bytes: int


class ModelState(_Whole):
    """A model's folder. problem: "" for a whole one, which has config and tensors; refused, aside: what was made and not taken."""

    present: bool
    digest: str | None
    problem: str


class StoredModel(TypedDict):
    """What lies in the folder of the models. partial: on its way, or not taken."""

    name: str
    revision: str
    folder: str
    bytes: int
    partial: bool


class BootRecord(TypedDict):
    """Boots of a release on this host, in seconds; see engine/history.boot_record."""

    boots: int
    last: float
    slowest: float
    typical: float
    expected: float


class Disk(TypedDict):
    """A file system. free: bytes."""

    path: str
    device: int
    free: int


class Memory(TypedDict):
    """Memory of the host in bytes, None where it does not say."""

    total: int | None
    available: int | None


class Processor(TypedDict):
    """The host's processor. features: of its instruction sets, those that decide an engine's code on the CPU."""

    model: str
    cores: int
    features: list[str]


class Venv(TypedDict):
    """The project's Python environment on the host."""

    lock_sha256: str | None


class Trouble(TypedDict):
    """Why a driver says nothing."""

    id: str
    message: str
    remedy: str


class Pcie(TypedDict):
    """How a GPU is connected now, and at most."""

    generation: int | None
    generation_max: int | None
    width: int | None
    width_max: int | None


class _Asked(TypedDict, total=False):
    container: str


class GpuProcess(_Asked):
    """A process that holds memory of a GPU. memory: bytes. container: the id of its container, "" without one."""

    pid: int | None
    name: str
    memory: int | None


class _Capable(TypedDict, total=False):
    capability: str


class FoundGpu(_Capable):
    """A GPU as the driver reports it. memory, free: bytes. Switches are None where the card has no such thing."""

    index: int
    uuid: str
    name: str
    bus: str
    architecture: str | None
    memory: int | None
    free: int | None
    persistence: bool | None
    mig: bool | None
    ecc: bool | None
    pcie: Pcie
    processes: list[GpuProcess]


class CdiContent(TypedDict):
    """What a CDI specification says, "" and [] without one."""

    driver: str
    devices: list[str]


class Cdi(CdiContent):
    """The CDI specification of the GPUs."""

    file: str


class Topology(TypedDict):
    """How GPUs are connected, and whether they read each other's memory."""

    links: dict[str, dict[str, str]]
    p2p: dict[str, dict[str, str]]


class Hardware(TypedDict):
    """What of GPUs can be known without starting anything. devices: PCI addresses. tool: path of nvidia-smi."""

    devices: list[str]
    wsl: bool
    module: str
    tool: str


class Reported(TypedDict):
    """What nvidia-smi reports."""

    driver: str
    cuda: str
    gpus: list[FoundGpu]


class Gpus(Hardware, Reported):
    """GPUs of a host with driver and toolkit: see gpu/host.read."""

    trouble: Trouble | None
    toolkit: dict[str, Package]
    cdi: Cdi
    refresher: bool
    runtime: str
    proof: Content


class Program(TypedDict):
    """A program of ours on the host. files: path to checksum. state: of its container, or absent. loaded: the sum it runs with."""

    files: dict[str, str | None]
    state: str
    loaded: str


class AcmeConfig(TypedDict, total=False):
    """With what an ACME server is asked for a certificate."""

    server: str
    email: str
    names: list[str]


class AcmeRequest(AcmeConfig, total=False):
    """What the plan has asked for, {} where no certificate is. ca_file: on the host, "" for a server that all trust."""

    ca_file: str


class GatewaySettings(TypedDict, total=False):
    """The gateway as it is declared, beside its routes; {} where nothing is. certificate, key: files of the host, "" for none.

    names: under which it answers for all services. certificate_names: all that a certificate has to have. wait: seconds for which
    requests wait at a closed route. body_limit: bytes. connections: at most.
    """

    https_port: int
    http_port: int
    ports_address: str
    names: list[str]
    certificate_names: list[str]
    domain: str
    certificate: str
    key: str
    acme: AcmeRequest
    wait: int
    body_limit: int
    connections: int


class AcmeState(TypedDict, total=False):
    """What the ACME client did. missing: why the certificate is not what is declared, "" when it is. failures: in a row.

    error: of the last attempt. ca_differs: the client has a copy of another CA file than is declared. ca_problem: what is wrong
    with that.
    """

    missing: str
    error: str
    failures: int
    ca_problem: str
    ca_differs: bool


class Certificate(TypedDict, total=False):
    """A certificate in a file; {} without one. begins, expires: seconds since the epoch."""

    names: list[str]
    begins: float
    expires: float
    problem: str
    acme: AcmeState


class ValidKey(TypedDict):
    """A client's key that is valid, without the key."""

    id: str
    client: str
    services: list[str]


class ClientKeys(TypedDict, total=False):
    """Keys of clients on the host; problem: what is wrong with their file."""

    keys: list[ValidKey]
    problem: str


class GatewayState(TypedDict):
    """What gateway/host.facts says of the gateway. now: seconds since the epoch.

    due: why it has to be changed though its files are as declared. engine_key: fingerprint of the newest key between gateway and
    engines, "" before it was rotated. old_engine_keys: services whose engine lacks that key. stopped: backends whose clients are
    told that the service was stopped.
    """

    now: int
    certificate: Certificate
    clients: ClientKeys
    due: list[str]
    engine_key: str
    old_engine_keys: list[str]
    stopped: list[str]


class Gateway(GatewayState):
    """The gateway on a host: its files' checksums, what it has loaded, its container, its ACME client."""

    files: dict[str, str | None]
    loaded: str | None
    id: str
    state: str
    acme: Program


class DockerHost(TypedDict):
    """What decides what a host needs for Docker."""

    system: System
    docker: Docker


class GpuHost(TypedDict):
    """What decides what a host needs for its GPUs. gpu: None where nobody asked."""

    docker: DockerAnswer
    gpu: Gpus | None


class Facts(TypedDict):
    """All that llm_host_facts reads of a host. images: by reference; releases, keys, boot_records: by service; models: by name."""

    system: System
    docker: Docker
    networks: dict[str, bool]
    images: dict[str, str]
    owned_images: list[OwnedImage]
    image_records: dict[str, ImageRecord]
    release_images: dict[str, dict[str, str]]
    containers: list[Container]
    foreign: list[ForeignContainer]
    published: dict[str, str]
    listening: dict[str, Listener]
    releases: dict[str, Releases]
    models: dict[str, ModelState]
    texts: dict[str, str]
    stored_models: list[StoredModel]
    release_models: list[str]
    calibration: list[Content]
    lease: HostLease
    boot_records: dict[str, dict[str, BootRecord]]
    disk: dict[str, Disk]
    memory: Memory
    processor: Processor
    venv: Venv
    keys: dict[str, str | None]
    gpu: Gpus | None
    supervisor: Program
    gateway: Gateway


NO_RELEASES: Releases = {
    "current": None,
    "previous": None,
    "facts": None,
    "drift": [],
    "proven": False,
    "known": None,
    "serving": None,
    "started": "",
    "before": None,
    "attempt": None,
}
"""Of a service that was never deployed."""
NO_MODEL: ModelState = {"present": False, "digest": None, "problem": ""}
"""Of a model that nobody looked for."""
