"""What a release did on this host before: how long it took to boot, and how fast it was.

One file a release, `<root>/state/history/<service>-<release>.json`: a release's hash covers image, model, flags, environment
and GPUs, so its numbers can be compared. Standard library, no Ansible.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TypedDict

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.declare.facts import BootRecord

KEPT = 10
"""Boots and speeds of a release that are kept, the newest ones."""
RELEASES = 20
"""Releases of a service whose files are kept: those that were written last."""
MARGIN = 15.0
"""Seconds beyond its slowest recorded boot within which a release that returns has to answer."""
PATIENCE, PATIENCE_LEAST = 10, 900
"""So many times its slowest recorded boot a release may take, and so many seconds in any case: without caches, and with weights
that have to come from a slow disk, a boot may rightly take several times as long as any before."""


class _Entry(TypedDict):
    at: float  # seconds since the epoch


class _Told(TypedDict, total=False):
    phases: dict[str, float]
    cache: str


class Boot(_Entry, _Told):
    """A boot that ended well. phases: to seconds. cache: see boot.compile_cache."""

    seconds: float


class Speed(_Entry):
    """A stream of one request at an idle engine. ttft_ms: milliseconds to the first token."""

    tokens_per_second: float
    ttft_ms: float


class History(TypedDict):
    """What a release did, oldest first."""

    boots: list[Boot]
    speeds: list[Speed]


def file_name(service: str, release: str) -> str:
    """Name of a release's file."""
    return f"{service}-{release}.json"


def _numbers(entry: object, *keys: str) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), (int, float)) and not isinstance(entry.get(key), bool) for key in keys
    )


def parse(text: str) -> History:
    """Read a file's content; entries that make no sense are left out, a damaged file is an empty history."""
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    boots, speeds = (held.get(kind) if isinstance(held, dict) else None for kind in ("boots", "speeds"))
    return {
        "boots": [b for b in boots if _numbers(b, "at", "seconds")] if isinstance(boots, list) else [],
        "speeds": [s for s in speeds if _numbers(s, "at", "tokens_per_second", "ttft_ms")]
        if isinstance(speeds, list)
        else [],
    }


def read(path: Path) -> History:
    """The history of a release; empty when there is none."""
    return parse(files.read(path))


def of_service(place: Path, service: str) -> dict[str, History]:
    """Histories of all releases of a service: {release: history}."""
    found = {}
    for path in sorted(place.glob(f"{service}-*.json")):
        release = path.stem[len(service) + 1 :]
        if "-" not in release:  # else it is of a service whose name is longer
            found[release] = read(path)
    return found


def add_boot(path: Path, boot: Boot) -> bool:
    """Add a boot, unless the newest one is of the same time. Returns whether it was written; OSError when that failed."""
    history = read(path)
    if history["boots"] and history["boots"][-1]["at"] == boot["at"]:
        return False
    _write(path, {**history, "boots": [*history["boots"], boot][-KEPT:]})
    return True


def add_speed(path: Path, speed: Speed) -> None:
    """Add a speed, unless the newest one is of the same time. OSError when it cannot be written."""
    history = read(path)
    if not history["speeds"] or history["speeds"][-1]["at"] != speed["at"]:
        _write(path, {**history, "speeds": [*history["speeds"], speed][-KEPT:]})


def _write(path: Path, history: History) -> None:
    """Write a release's file. Those of releases that nobody came back to are removed with the time."""
    files.write(path, json.dumps(history, indent=1, sort_keys=True) + "\n")
    service = path.stem.rpartition("-")[0]
    siblings = [path.with_name(file_name(service, release)) for release in of_service(path.parent, service)]
    for old in sorted(siblings, key=lambda p: p.stat().st_mtime)[:-RELEASES]:
        old.unlink(missing_ok=True)


def boot_record(history: History) -> BootRecord | None:
    """Sum up the boots of a release; None without any.

    `typical` is the median. `expected` is when a release that returns should have answered; it ends no boot, see patience.
    """
    boots = history["boots"]
    if not boots:
        return None
    seconds = [float(boot["seconds"]) for boot in boots]
    return {
        "boots": len(boots),
        "last": seconds[-1],
        "slowest": max(seconds),
        "typical": round(statistics.median(seconds), 1),
        "expected": round(max(seconds) + MARGIN, 1),
    }


def patience(record: BootRecord | None, declared: int) -> int:
    """Seconds after which a boot is given up: those declared, or less where boots on record (see boot_record) were far shorter."""
    return min(declared, max(PATIENCE_LEAST, round(PATIENCE * record["slowest"]))) if record else declared


def boot_records(place: Path, service: str) -> dict[str, BootRecord]:
    """Boots of every release of a service that has booted on this host, summed up, by release."""
    found = {release: boot_record(history) for release, history in of_service(place, service).items()}
    return {release: record for release, record in found.items() if record}


def usual_speed(history: History) -> tuple[float, float] | None:
    """Median of a release's recorded speeds, as tokens per second and milliseconds to the first token; None without any.

    Only speeds of a release that passed are recorded, so a slow boot does not lower what the next one is held against.
    """
    speeds = history["speeds"]
    if not speeds:
        return None
    return (
        statistics.median(float(s["tokens_per_second"]) for s in speeds),
        statistics.median(float(s["ttft_ms"]) for s in speeds),
    )
