"""Nothing is started by accident: a run that would empty a host that serves.

Docker is a STUB where the host is looked at (see benchmarks/converge.py); all else is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import catalogs

_SPEC = importlib.util.spec_from_file_location("converge", catalogs.ROOT / "benchmarks/converge.py")
assert _SPEC and _SPEC.loader
converge: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(converge)


def playbook(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A run in the project; what the person who runs the tests has set must not decide what they see."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "LLM_"))}
    ours |= {"LLM_PROGRESS": "0", "ANSIBLE_NOCOLOR": "1", **(env or {})}
    command = [str(catalogs.ROOT / ".venv/bin/ansible-playbook"), *argv]
    return subprocess.run(
        command,
        cwd=catalogs.ROOT,
        env=ours,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# -- a host that serves -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of runs on a host where two STUB engines, their gateway and their supervisor run."""
    with tempfile.TemporaryDirectory() as name:  # a short path: a socket's has 107 bytes at most
        host = converge.Host(Path(name) / "h", 2)
        with host.served() as environment:
            yield host.runs()["site"][1:], environment


NOTHING = ("-e", json.dumps({"llm_host_services": []}))


@pytest.mark.parametrize(
    "more",
    [(), ("--check", "--diff"), ("--tags", "gateway"), ("--tags", "stub-01")],
    ids=" ".join,
)
def test_a_host_that_serves_is_not_emptied(serving: tuple[list[str], dict[str, str]], more: tuple[str, ...]) -> None:
    arguments, environment = serving
    ran = playbook("site.yml", *arguments, *NOTHING, *more, env=environment)
    assert ran.returncode == 2, ran.stdout
    assert "refused, 1 problem; nothing was touched." in ran.stdout and "changed=0" in ran.stdout
    assert (
        "has nothing that is to run, and this host serves: `stub-01`, `stub-02`, the gateway, the supervisor would be taken"
        in ran.stdout
    )
    assert "-e llm_prune=true" in ran.stdout and "Traceback" not in ran.stdout + ran.stderr


def test_with_llm_prune_it_may_be(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    ran = playbook("site.yml", *arguments, *NOTHING, "--check", "-e", "llm_prune=true", env=environment)
    assert "refused" not in ran.stdout and "Remove the gateway" in ran.stdout


def test_its_supervisor_is_not_taken(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    without = ("-e", "llm_supervisor=false")
    ran = playbook("site.yml", *arguments, *without, env=environment)
    assert ran.returncode == 2 and "changed=0" in ran.stdout
    assert "llm_supervisor" in ran.stdout and "nothing would bring back an engine that hangs" in ran.stdout
    ran = playbook("site.yml", *arguments, *without, "--check", "-e", "llm_prune=true", env=environment)
    assert "refused" not in ran.stdout and "Remove the supervisor" in ran.stdout
    assert playbook("site.yml", *arguments, *without, "--tags", "images", env=environment).returncode == 0


def test_what_only_looks_goes_on(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    for book in ("validate", "status", "smoke"):
        ran = playbook(f"playbooks/{book}.yml", *arguments, *NOTHING, env=environment)
        assert ran.returncode == 0, ran.stdout
        assert ("would be taken from it" in ran.stdout) == (book == "status"), book
