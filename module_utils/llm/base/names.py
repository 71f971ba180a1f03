"""Names that the controller and the host agree on: containers, networks, labels, images, and hashes that name folders."""

from __future__ import annotations

import hashlib
import json
from typing import Any

NETWORK = "llm"
FRONT_NETWORK = "llm-front"
NETWORKS = {NETWORK: True, FRONT_NETWORK: False}  # whether it is internal: engines have no way out
PREFIX = "llm-"  # names of our containers begin with it
SUPERVISOR_LABEL, ACME_LABEL = "llm.supervisor", "llm.acme"  # with the checksum of what they were started with
LABELS = ("llm.service", "llm.gateway", SUPERVISOR_LABEL, ACME_LABEL)  # each of them has one
GATEWAY = f"{PREFIX}gateway"
SUPERVISOR = f"{PREFIX}supervisor"
ACME = f"{PREFIX}acme"
SUPERVISOR_FOLDER = "supervisor"  # below the project's folder
GATEWAY_IMAGE, ACME_IMAGE = "haproxy", "acme"  # their names in the catalog
ENGINE_PORT = 8000
UNKNOWN_IMAGE = "not-there-yet"
LOCAL = "llm/"  # names of images that are made here begin with it


def container_name(service: str, release: str) -> str:
    """One name per release, so that two releases of a service can run side by side."""
    return f"{PREFIX}{service}-{release[:8]}"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_key(image_id: str | None) -> str:
    """Folder name of an image's caches: compiled code of one image is never read by another."""
    return (image_id or UNKNOWN_IMAGE).removeprefix("sha256:")[:12]
