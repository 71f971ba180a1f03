"""Memory of GPUs that a stopped engine held: whether it is free again. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.declare.facts import FoundGpu

FREED = 0.9  # share of what a stopped engine held that must be free again; the driver rounds, and others come and go


def held(gpus: Iterable[FoundGpu], containers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What containers (ids) hold of GPUs: {uuid: {index, pids, memory (bytes), used (bytes, by all), label}}."""
    ids, found = {*containers}, {}
    for one in gpus:
        own = [p for p in one["processes"] if p["container"] in ids]
        if own:
            used = one["memory"] - one["free"] if one["memory"] is not None and one["free"] is not None else None
            found[one["uuid"]] = {
                "index": one["index"],
                "pids": [p["pid"] for p in own],
                "memory": sum(p["memory"] or 0 for p in own),
                "used": used,
            }
    return found


def still_held(before: Mapping[str, Mapping[str, Any]], gpus: Iterable[FoundGpu]) -> list[str]:
    """What of `before` (see `held`) is not free yet, as texts: processes that go on, memory that did not come back."""
    now = {one["uuid"]: one for one in gpus}
    found = []
    for uuid, was in before.items():
        one = now.get(uuid)
        if one is None:  # a GPU that is lost holds nothing
            continue
        pids = sorted({p["pid"] for p in one["processes"] if p["pid"] is not None} & {*was["pids"]})
        if pids:
            found.append(f"GPU {was['index']}: pid {', '.join(map(str, pids))} still holds memory")
        elif was["used"] is not None and one["free"] is not None and one["memory"] is not None:
            freed = was["used"] - (one["memory"] - one["free"])
            if freed < FREED * was["memory"]:
                missing = (was["memory"] - freed) / 2**30
                found.append(f"GPU {was['index']}: {missing:.1f} GiB of the stopped engine are not free yet")
    return found
