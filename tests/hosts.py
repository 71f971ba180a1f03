"""Facts of hosts, as module llm_host_facts gives them, for tests of what is decided from them."""

import copy
from typing import Any

from ansible.module_utils.llm.base.lease import FREE
from ansible.module_utils.llm.declare.facts import NO_MODEL, NO_RELEASES, Facts

EMPTY: Facts = {
    "system": {"id": "debian", "version": "12", "codename": "bookworm", "systemd": True, "wsl": False},
    "docker": {
        "installed": True,
        "running": True,
        "version": "26.1.5",
        "compose_version": "2.26.1",
        "error": None,
        "root": "/var/lib/docker",
        "named": "",
        "runtimes": [],
        "cdi": False,
        "live_restore": False,
        "swarm": False,
        "running_containers": 0,
        "process": 1,
        "outdated": False,
        "daemon": {
            "file": "/etc/docker/daemon.json",
            "problem": "",
            "settings": {},
            "environment": {},
            "loaded": None,
        },
        "packages": {},
        "repositories": {},
        "repository_key": {"sha256": "", "fingerprints": []},
    },
    "networks": {},
    "images": {},
    "owned_images": [],
    "image_records": {},
    "release_images": {},
    "containers": [],
    "foreign": [],
    "published": {},
    "listening": {},
    "releases": {},
    "models": {},
    "texts": {},
    "stored_models": [],
    "release_models": [],
    "calibration": [],
    "lease": {**FREE, "left": 0.0},
    "boot_records": {},
    "disk": {},
    "memory": {"total": None, "available": None},
    "processor": {"model": "", "cores": 1, "features": []},
    "venv": {"lock_sha256": None},
    "keys": {},
    "gpu": None,
    "supervisor": {"files": {}, "state": "absent", "loaded": ""},
    "gateway": {
        "now": 0,
        "certificate": {},
        "clients": {},
        "due": [],
        "engine_key": "",
        "old_engine_keys": [],
        "stopped": [],
        "files": {},
        "loaded": None,
        "id": "",
        "state": "absent",
        "acme": {"files": {}, "state": "absent", "loaded": ""},
    },
}
"""Of a host with Docker, on which nothing of ours is."""


def facts(**changes: Any) -> Any:
    """Facts of a host that is empty but for these; of `docker` and `gateway` only what differs."""
    found: dict[str, Any] = copy.deepcopy({**EMPTY})
    for part in ("docker", "gateway"):
        changes[part] = {**found[part], **changes.get(part, {})}
    return {**found, **changes}


def released(**changes: Any) -> Any:
    """Releases of a service."""
    return {**NO_RELEASES, **changes}


def model(**changes: Any) -> Any:
    """State of a model's folder."""
    return {**NO_MODEL, **changes}
