"""Plugin of `make test-faults`: writes down what tests of faults gave, one line a test.

A test says how long recovery took with `record_property("recovery_seconds", 31.2)`. Entries of earlier runs stay until their
test runs again; each has its own date and machine.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

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
        seconds = [value for key, value in report.user_properties if key == "recovery_seconds"]
        if seconds:
            entry["recovery_seconds"] = round(max(float(s) for s in [*seconds, entry.get("recovery_seconds", 0)]), 1)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, found = session.config.getoption("--fault-results"), session.config.stash[RESULTS]
    if path is None or not found:
        return
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(kept | found), encoding="utf-8")


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
