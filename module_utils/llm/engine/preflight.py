"""What is put to an image before anything is stopped for it, and which of it has passed before. Pure functions.

The program is roles/vllm_service/files/engine_check.py, whose text has the shapes of question and answer. A job: {image:
reference, image_id, records: folder on the host, services: {name: {argv, env, files, model}}}, model being {folder, digest} on
the host, or {config} alone, or {}. A record keeps the warnings of a service that passed, under a digest of all that went in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.base import names

FORMAT = 1
KEPT = 100  # records on a host: those of the last deployments
_TEXTS = ("id", "severity", "key", "message", "remedy")


def key(program: str, image_id: str, service: Mapping[str, Any]) -> str:
    """Digest of all that a preflight's answer depends on; "" when image or model has no identity, so that no answer may be kept.

    The digest covers a model by the digest of its files, and not by its folder.
    """
    model = dict(service.get("model") or {})
    folder = model.pop("folder", "")
    if not image_id or (folder and not model.get("digest")):
        return ""
    return names.digest([FORMAT, program, image_id, {**service, "model": model}])


def record_name(digest: str) -> str:
    """File name of a record."""
    return f"{digest[:16]}.json"


def record_text(digest: str, service: str, image: str, findings: Iterable[Mapping[str, str]]) -> str:
    """The record of a service that passed."""
    document = {"format": FORMAT, "key": digest, "service": service, "image": image, "findings": list(findings)}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def passed(text: str, digest: str) -> list[dict[str, str]] | None:
    """Warnings of a service that passed, from the text of its record; None when that is no record of it, or a damaged one."""
    try:
        kept = json.loads(text)
        if kept["format"] != FORMAT or kept["key"] != digest:
            return None
        return [{name: str(finding[name]) for name in _TEXTS} for finding in kept["findings"]]
    except (ValueError, KeyError, TypeError):
        return None


def request(services: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The question that engine_check.py reads, and mounts for its container: path inside -> path on the host."""
    asked, mounts = {}, {}
    for name, service in services.items():
        model = dict(service.get("model") or {})
        if "folder" in model:
            mounts[f"/models/{name}"] = model["folder"]
            model = {"folder": f"/models/{name}"}
        asked[name] = {"argv": service["argv"], "env": service["env"], "files": service["files"], "model": model}
    return {"services": asked}, mounts


def texts(services: Mapping[str, Mapping[str, Any]], severity: str) -> list[str]:
    """Findings of one severity as a person reads them, by service."""
    return [
        f"llm_services.{name}.{f['key']}: {f['message']}. {f['remedy']}"
        for name, answer in services.items()
        for f in answer["findings"]
        if f["severity"] == severity
    ]
