"""Records of boots: the memory that a boot measured, kept under all that the numbers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files

RECORD_FORMAT = 1


def record(harvest: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a boot measured, to be kept and used by `estimate`; None when its log lacks the size of the KV cache.

    harvest: see boot.harvest. key: see fit.estimate.record_key. GiB a GPU, tokens of the engine.
    """
    wanted = ("kv_cache_tokens", "kv_cache_gib", "weights_gib")
    if not all(k in harvest for k in wanted):
        return None
    more = ("gpu_total_gib", "gpu_free_gib", "requested_gib", "activation_gib", "other_gib", "consumed_gib")
    measured = {k: harvest[k] for k in (*wanted, *more, "graph_gib", "graph_estimate_gib") if k in harvest}
    return {**key, "measured": measured}


def record_name(kept: Mapping[str, Any]) -> str:
    """File name of a record: one for each model, image, GPU and set of flags, so that a new boot replaces the old one."""
    key = {k: kept[k] for k in ("format", "model", "image", "gpu", "flags")}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16] + ".json"


def keep(harvest: Mapping[str, Any], folder: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a boot measured; returns `changed` and the file. A record is a help and no condition: no room is no failure."""
    kept = record(harvest, key) if key else None
    if kept is None:
        return {}
    path = Path(folder) / record_name(kept)
    try:
        changed = files.write(path, json.dumps(kept, indent=1, sort_keys=True) + "\n")
    except OSError:
        return {}
    return {"changed": bool(changed), "record": str(path)}
