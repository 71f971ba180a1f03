#!/usr/bin/python
"""Read everything about a host that a plan needs, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_host_facts
short_description: Read a host - Docker, images, engines, releases, models, disk, ports
description:
  - One call that reads all that a plan compares with the declaration; an unchanged host costs nothing more.
  - Reads only, and works on a host that has nothing yet. One note is kept in C(state/compose) of the root, once that is there -
    the version of the Compose plugin, so that not even that starts a process.
options:
  root:
    description: Folder of the project on the host.
    type: str
    default: /opt/llm
  images:
    description: Image references to look for.
    type: list
    elements: str
    default: []
  models:
    description: Models to look for, name to folder.
    type: dict
    default: {}
  texts:
    description: Files of text that models are made with; the beginning of each is read.
    type: list
    elements: str
    default: []
  services:
    description: Services whose releases and keys to read; releases also of those that have a container.
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports whose listeners to name.
    type: list
    elements: int
    default: []
  gpus:
    description: Read NVIDIA GPUs, driver and container toolkit as well; it takes nvidia-smi a moment.
    type: bool
    default: false
  gateway:
    description: The plan's C(gateway); of the certificate that it wants is said what is wrong with the one that is there.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Reading again gives the same facts as long as the host is the same.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Read the host
  llm_host_facts:
    services: [micro]
    models: {qwen3-1.7b: /opt/llm/models/qwen3-1.7b/main}
    ports: [5000]
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
  contains:
    llm_host:
      description: Everything that was read.
      type: dict
      contains:
        system:
          description: id, version and codename of the distribution, systemd (is it PID 1), wsl.
          type: dict
        docker:
          description:
            - installed, running, version, compose_version, error, root (Docker's data folder), named (what DOCKER_HOST says).
            - live_restore, swarm (is it a node of one), running_containers (their number).
            - process (pid of an engine of this host), outdated (its program was replaced), daemon (file, problem, settings, loaded,
              environment), packages, repositories, repository_key; see module_utils/llm/docker/host.py. Passwords are hashed.
            - runtimes, names of those that the engine has loaded; cdi, whether it injects CDI devices.
          type: dict
        networks:
          description: Those of the project's Docker networks that are there, to whether they are internal (no way out).
          type: dict
        images:
          description: Id of every wanted reference that is there.
          type: dict
        owned_images:
          description: Image names that this project made or brought - name, id, size in bytes, containers that use the image.
          type: list
        image_records:
          description: Reference to what was written down when the image was made - id, source, names, found, proofs.
          type: dict
        release_images:
          description: Service, declared or not, to the image ids of its current and previous release.
          type: dict
        containers:
          description: Engines - id, name, service, release, state, status, image_id, made_of, ip.
          type: list
        foreign:
          description: Containers that are not ours and have a name like ours, or write to folders - name, image, state, writes.
          type: list
        published:
          description: Port to the name of the container that publishes it.
          type: dict
        listening:
          description: Wanted port to pid and process that listen on it.
          type: dict
        releases:
          description:
            - Service to current and previous release, facts of the current one, drift (edited files), proven.
            - serving and started, what the current one needs to return; before, the same of the previous one, and what it lacks.
            - attempt, the last deployment that failed, null once a release was made current after it - at (UTC), release, step,
              cause, folder (of diagnostics), proven_since (did clients get right answers from the current release after it).
          type: dict
        models:
          description: Model to present, digest, problem, bytes; a good one also has config and tensors, summed up.
          type: dict
        texts:
          description: Wanted file of text to what is wrong with it, empty when nothing is to be seen.
          type: dict
        stored_models:
          description: All that lies in the folder of the models - name, revision, folder, bytes, partial (is it on its way).
          type: list
        release_models:
          description: Models of all releases that are kept, as name/revision.
          type: list
        calibration:
          description: What engines measured at earlier boots (see llm_engine, record_folder).
          type: list
        lease:
          description: Which run changes the host (see module_utils/llm/base/lease.py); left, seconds until that expires.
          type: dict
        boot_records:
          description: Service to release to its boots on this host, summed up; see history.boot_record in module_utils/llm.
          type: dict
        disk:
          description: docker and root, each with path, device and free bytes.
          type: dict
        memory:
          description: total and available bytes of the host's memory.
          type: dict
        processor:
          description:
            - model ("" when the kernel tells none), cores (not threads), and features, those of its instruction sets by which an
              engine on the CPU chooses its code; two hosts that differ in them may round differently.
          type: dict
          sample: {model: AMD EPYC, cores: 2, features: [fma, f16c, avx2]}
        venv:
          description: lock_sha256 that the host's environment was made from.
          type: dict
        keys:
          description: Service to a short hash of its client key, null without one.
          type: dict
        gpu:
          description:
            - Null unless asked for. devices (PCI addresses), wsl, module (version of the loaded one), tool (path of nvidia-smi).
            - trouble (null, or id, message, remedy), driver, cuda, gpus (see module_utils/llm/gpu/nvidia.py).
            - toolkit (package to version and held), cdi (file, driver, devices), refresher, runtime, proof.
          type: dict
        supervisor:
          description: Checksums of the supervisor's files, its container's state, and the checksum of what it was started with.
          type: dict
        gateway:
          description:
            - Checksums of the gateway's files, what it has loaded, and its container's id and state.
            - acme, of its client what supervisor says of that one.
            - certificate (names, begins, expires, problem; acme, where that gives it), clients (keys, problem), now.
            - due (why it needs a hand), old_engine_keys (services without the newest), engine_key (fingerprint of the newest, once
              it was rotated), stopped (backends of which it tells clients that they were stopped).
          type: dict
"""

import os
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import lease, names
from ansible.module_utils.llm.declare.facts import Docker, Facts
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import host as docker_host
from ansible.module_utils.llm.docker.api import ListedContainer, ListedImage, ListedNetwork
from ansible.module_utils.llm.engine import history
from ansible.module_utils.llm.gateway import acme
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.gpu import host as gpu_host
from ansible.module_utils.llm.host import read as read_host
from ansible.module_utils.llm.images.images import RECORDS
from ansible.module_utils.llm.models import dataset_files, store


def docker_facts(
    module: AnsibleModule, root: Path
) -> tuple[Docker, list[ListedContainer], list[ListedImage], list[ListedNetwork]]:
    """State of the engine, all its containers, all its images, all its networks."""

    def ask(plugin: str) -> str | None:
        rc, out, _ = module.run_command([plugin, "version", "--short"])
        return out.strip().lstrip("v") if rc == 0 else None

    state: Docker = {
        "installed": module.get_bin_path("dockerd") is not None,
        "running": False,
        "version": None,
        "compose_version": read_host.compose_version(
            read_host.compose_plugin(), root / "state/compose", ask, keep=not module.check_mode
        ),
        "error": None,
        "root": "/var/lib/docker",
        "named": os.environ.get("DOCKER_HOST", ""),
        "runtimes": [],
        "cdi": False,
        "live_restore": False,
        "swarm": False,
        "running_containers": 0,
        **docker_host.read(),
    }
    if docker_api.socket_path() not in (docker_api.DEFAULT_SOCKET, "/run/docker.sock"):
        state["process"] = None  # its files are not those of the engine that was asked
    if state["named"] and not state["named"].startswith("unix://"):
        state["error"] = "only an engine of the host itself can be used (unix://...)"
        return state, [], [], []
    try:
        state["version"] = docker_api.get("/version")["Version"]
        containers = docker_api.get("/containers/json?all=1")
        images = docker_api.get("/images/json")
        networks = docker_api.get("/networks")
        info = docker_api.get("/info")
        state["root"] = info["DockerRootDir"]
        state["runtimes"] = sorted(info.get("Runtimes") or {})
        state["cdi"] = bool(info.get("CDISpecDirs"))
        state["live_restore"] = bool(info.get("LiveRestoreEnabled"))
        state["swarm"] = (info.get("Swarm") or {}).get("LocalNodeState", "inactive") != "inactive"
        state["running_containers"] = int(info.get("ContainersRunning") or 0)
        state["running"] = True
    except docker_api.DockerError as error:
        state["error"] = str(error)
        return state, [], [], []
    return state, containers, images, networks


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "str", "default": "/opt/llm"},
            "images": {"type": "list", "elements": "str", "default": []},
            "models": {"type": "dict", "default": {}},
            "texts": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "gpus": {"type": "bool", "default": False},
            "gateway": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    root = Path(wanted["root"])
    docker, containers, images, networks = docker_facts(module, root)
    engines, published = read_host.containers(containers)
    records = read_host.image_records(root / RECORDS)
    ids = {image["Id"] for image in images}
    ours = {engine["service"] for engine in engines}
    gateway = next((c for c in containers if f"/{names.GATEWAY}" in (c.get("Names") or [])), None)
    facts: Facts = {
        "system": read_host.system(),
        "docker": docker,
        "networks": {n["Name"]: n["Internal"] for n in networks if n["Name"] in names.NETWORKS},
        "images": read_host.image_ids(images, wanted["images"]),
        "owned_images": read_host.owned_images(images, containers, records, names.LOCAL),
        "image_records": records,
        "release_images": read_host.release_images(root / "services"),
        "containers": engines,
        "foreign": read_host.foreign(containers, names.PREFIX, names.LABELS),
        "published": published,
        "listening": read_host.listening(wanted["ports"]),
        "releases": {s: read_host.release(root / "services" / s, ids) for s in {*wanted["services"], *ours}},
        "models": {name: read_host.model(folder) for name, folder in wanted["models"].items()},
        "texts": {name: dataset_files.look(Path(name)) for name in wanted["texts"]},
        "stored_models": store.stored(root / "models"),
        "release_models": store.in_releases(root / "services"),
        "calibration": read_host.records(root / "state" / "calibration"),
        "lease": lease.facts(root / lease.FILE),
        "boot_records": {s: history.boot_records(root / "state" / "history", s) for s in wanted["services"]},
        "disk": {"root": read_host.disk(str(root)), "docker": read_host.disk(docker["root"])},
        "memory": read_host.memory(),
        "processor": read_host.processor(),
        "venv": {"lock_sha256": read_host.environment_lock(root / "venv")},
        "keys": {s: read_host.fingerprint(root / "keys" / s) for s in wanted["services"]},
        "gpu": gpu_host.read(module.run_command, root) if wanted["gpus"] else None,
        "supervisor": read_host.program(
            root / names.SUPERVISOR_FOLDER, containers, names.SUPERVISOR, names.SUPERVISOR_LABEL
        ),
        "gateway": {
            "files": {
                n: read_host.file_sha256(root / "gateway" / n)
                for n in (gateway_host.COMPOSE, gateway_host.CONFIG, gateway_host.PROGRAM)
            },
            "loaded": read_host.first_line(root / "gateway" / "loaded"),
            "id": gateway["Id"][:12] if gateway else "",
            "state": gateway["State"] if gateway else "absent",
            "acme": read_host.program(root / "gateway" / acme.FOLDER, containers, names.ACME, names.ACME_LABEL),
            **gateway_host.facts(root, wanted["gateway"], time.time()),
        },
    }
    module.exit_json(changed=False, ansible_facts={"llm_host": facts})


if __name__ == "__main__":
    main()
