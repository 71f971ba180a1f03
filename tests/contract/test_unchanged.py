"""An unchanged host costs one module and few processes of the controller, however many services it has. Counts, not times.

The host is that of benchmarks/converge.py: STUB containers behind a STUB of Docker's API, all else is real.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from tests import catalogs

SERVICES = 50
WORKERS = 23
"""Tasks that a whole run hands to a process, skipped ones too; it was 52 before stages were left out as a whole."""

_FILE = catalogs.ROOT / "benchmarks/converge.py"
_SPEC = importlib.util.spec_from_file_location("converge", _FILE)
assert _SPEC and _SPEC.loader
converge: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(converge)


def watched(folder: Path) -> tuple[dict[str, str], Path]:
    """An environment whose docker commands are STUBS that write down each start, and that file."""
    log, stub = folder / "started", folder / "docker"
    stub.write_text(f'#!/bin/sh\necho "$0 $*" >> {log}\necho 2.40.3\n', encoding="utf-8")
    stub.chmod(0o755)
    plugins = folder / ".docker/cli-plugins"
    plugins.mkdir(parents=True)
    for place in (plugins / "docker-compose", folder / "docker-compose", folder / "nvidia-smi"):
        place.symlink_to(stub)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}, log


def test_an_unchanged_host_costs_one_module() -> None:
    with tempfile.TemporaryDirectory() as name:  # a short path: a socket's has 107 bytes at most
        host = converge.Host(Path(name) / "h", SERVICES)
        stubs, started = watched(Path(name))
        with host.served() as environment:
            site = host.runs()["site"]
            converge.run([str(catalogs.ROOT / "playbooks/status.yml"), *site[1:]], {**environment, **stubs})
            assert started.read_text().split()[1:] == ["version", "--short"]  # asked once for each Compose, and noted
            started.unlink()
            found = converge.run(site, {**environment, **stubs})
    assert (found["changed"], found["modules"]) == (0, 1)
    assert not started.exists()
    assert found["workers"] <= WORKERS
