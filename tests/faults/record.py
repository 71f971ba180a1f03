"""Plugin of `make test-faults`: writes down what tests of faults gave, one line a test.

A test says how long recovery took with `record_property("recovery_seconds", 31.2)`, and more of NUMBERS likewise. Entries
of earlier runs stay until their test runs again; each has its own date and machine. Results of two checkouts are merged by
`python -m tests.faults.record FILE OTHER`: into FILE goes what OTHER has, unless it is older.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

NUMBERS = {
    "recovery_seconds": "from the fault to the first right answer",
    "found_seconds": "from the fault to its discovery",
    "boot_seconds": "the slowest boot on record, before the fault, of the release that answers again",
    "refused_seconds": "from the start of the run to its end, which refuses",
    "kills": "how many runs were killed",
    "busy_seconds": "how long clients kept the engine at work without a pause",
    "answers": "what they got",
    "silent_seconds": "for how long nobody asked",
    "stillest_seconds": "the longest time in which the engine's metrics showed no new token",
    "unknown_seconds": "the longest time in which the supervisor did not know whether the engine lived",
}
"""What a test may record; of parametrized cases the largest counts, of SUMS the sum."""
SUMS = {"kills", "answers"}
RESULTS: pytest.StashKey[dict[str, dict[str, Any]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-results", metavar="FILE", type=Path, help="JSON file that the results go to")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("fault") and (report.when == "call" or report.failed):
        # Parametrized cases are one test of the table.
        name = item.nodeid.partition("[")[0]
        entry = item.config.stash[RESULTS].setdefault(name, {"passed": True, **_where()})
        entry["passed"] = entry["passed"] and report.passed
        for key, value in report.user_properties:
            if key in SUMS:
                entry[key] = entry.get(key, 0) + int(str(value))
            elif key in NUMBERS:
                entry[key] = round(max(float(str(value)), entry.get(key, 0)), 1)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, found = session.config.getoption("--fault-results"), session.config.stash[RESULTS]
    if path is None or not found:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Read as late as this: another run may have written meanwhile.
    path.write_text(dumps(read(path) | found), encoding="utf-8")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Results in a file; none when it is not there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def merged(ours: Mapping[str, dict[str, Any]], others: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Both, of each test the newer result; of the same day the others'."""
    newer = {name: entry for name, entry in others.items() if entry["date"] >= ours.get(name, entry)["date"]}
    return {**ours, **newer}


def dumps(results: dict[str, dict[str, Any]]) -> str:
    """JSON with one line a test, sorted: two runs that recorded different tests merge."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(results.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _where() -> dict[str, str]:
    system = platform.freedesktop_os_release()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {system['ID'].title()} {system.get('VERSION_ID', '')}",
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(dumps(merged(read(target), read(Path(sys.argv[2])))), encoding="utf-8")
