"""What a release did on this host before: how long it took to boot, and how fast it was.

One file a release, `<root>/state/history/<service>-<release>.json`: a release's hash covers image, model, flags, environment
and GPUs, so its numbers can be compared. Standard library, no Ansible.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files

KEPT = 10
"""Boots and speeds of a release that are kept, the newest ones."""
RELEASES = 20
"""Releases of a service whose files are kept: those that were written last."""
MARGIN = 15.0
"""Seconds beyond its slowest recorded boot within which a release that returns has to answer."""
PATIENCE, PATIENCE_LEAST = 10, 900
"""So many times its slowest recorded boot a release may take, and so many seconds in any case: without caches, and with weights
that have to come from a slow disk, a boot may rightly take several times as long as any before."""

History = dict[str, list[dict[str, Any]]]
"""{"boots": [{"at", "seconds", "phases", "cache"}], "speeds": [{"at", "tokens_per_second", "ttft_ms"}]}, oldest first.

at: seconds since the epoch. phases: {phase: seconds}. cache: see boot.compile_cache.
"""


def file_name(service: str, release: str) -> str:
    """Name of a release's file."""
    return f"{service}-{release}.json"


def _numbers(entry: Any, *keys: str) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), (int, float)) and not isinstance(entry.get(key), bool) for key in keys
    )


def parse(text: str) -> History:
    """Read a file's content; entries that make no sense are left out, a damaged file is an empty history."""
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    held = held if isinstance(held, dict) else {}
    wanted = {"boots": ("at", "seconds"), "speeds": ("at", "tokens_per_second", "ttft_ms")}
    found: History = {}
    for kind, keys in wanted.items():
        entries = held.get(kind)
        found[kind] = [e for e in entries if _numbers(e, *keys)] if isinstance(entries, list) else []
    return found


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


def add(path: Path, kind: str, entry: Mapping[str, Any]) -> bool:
    """Add one boot or speed, unless the newest one is of the same time. Returns whether it was written; OSError when not.

    Files of releases that nobody came back to are removed with the time.
    """
    history = read(path)
    if history[kind] and history[kind][-1]["at"] == entry["at"]:
        return False
    history[kind] = [*history[kind], dict(entry)][-KEPT:]
    files.write(path, json.dumps(history, indent=1, sort_keys=True) + "\n")
    service = path.stem.rpartition("-")[0]
    siblings = [path.with_name(file_name(service, release)) for release in of_service(path.parent, service)]
    for old in sorted(siblings, key=lambda p: p.stat().st_mtime)[:-RELEASES]:
        old.unlink(missing_ok=True)
    return True


def boot_record(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Sum up the boots of a release; {} without any.

    {"boots": number, "last", "slowest", "typical" (median), "expected": seconds}. `expected` is when a release that returns
    should have answered; it ends no boot, see patience.
    """
    boots = history.get("boots", [])
    if not boots:
        return {}
    seconds = [float(boot["seconds"]) for boot in boots]
    return {
        "boots": len(boots),
        "last": seconds[-1],
        "slowest": max(seconds),
        "typical": round(statistics.median(seconds), 1),
        "expected": round(max(seconds) + MARGIN, 1),
    }


def patience(record: Mapping[str, Any], declared: int) -> int:
    """Seconds after which a boot is given up: those declared, or less where boots on record (see boot_record) were far shorter."""
    return min(declared, max(PATIENCE_LEAST, round(PATIENCE * record["slowest"]))) if record else declared


def boot_records(place: Path, service: str) -> dict[str, dict[str, Any]]:
    """Boots of every release of a service that has booted on this host, summed up: {release: record as of boot_record}."""
    found = {release: boot_record(history) for release, history in of_service(place, service).items()}
    return {release: record for release, record in found.items() if record}


def usual_speed(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float] | None:
    """Median of a release's recorded speeds, as tokens per second and milliseconds to the first token; None without any.

    Only speeds of a release that passed are recorded, so a slow boot does not lower what the next one is held against.
    """
    speeds = history.get("speeds", [])
    if not speeds:
        return None
    return (
        statistics.median(float(s["tokens_per_second"]) for s in speeds),
        statistics.median(float(s["ttft_ms"]) for s in speeds),
    )
