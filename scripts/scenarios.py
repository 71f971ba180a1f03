#!/usr/bin/env python3
"""Which Molecule scenarios are there, and which to run.

Usage: scripts/scenarios.py chosen|all|changed [BASE]     prints names, one a line

chosen: what `make test` runs. all: what is there. changed: those that the difference to BASE touches, which is a commit (default:
where this branch left main); edits that are not committed count. What a scenario depends on is read from the tree: its playbooks,
the roles and modules that these name, and what the modules import.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHOSEN = {
    "site": "every role on two machines, with real engines",
    "docker_engine": "an engine that is used by others must not stop",
    "gateway_alternative": "streams must not be cut; all that scenario gateway tests",
    "model_store_alternative": "a damaged model must not be served; all that scenario model_store tests",
}
"""Scenario to the reason why every change waits for it. The others take longer or test less: see CONTRIBUTING.md."""

SHARED = (
    "molecule/shared/",
    "molecule/conftest.py",
    ".config/molecule/",
    "ansible.cfg",
    "callback_plugins/",
    "requirements/dev",
)
"""What all scenarios run with. What these files name is not followed: a machine is made with much of the project."""

_PATH = re.compile(r"[\w./-]+/[\w.*-]+|[\w-]+\.(?:yml|j2|sh|py)")
_NAME = re.compile(r"\bllm_\w+")
_ROLE = re.compile(r"(?:- |name: |role: )(\w+)\b")
_LIBRARY = "ansible.module_utils.llm"


def scenarios(root: Path) -> list[str]:
    """Names of all scenarios."""
    return sorted(p.parent.name for p in (root / "molecule").glob("*/molecule.yml"))


def _files(place: Path) -> Iterator[Path]:
    """A file, or all files of a folder, links to other folders included."""
    if place.is_file():
        yield place
    elif place.is_dir():
        for entry in sorted(place.iterdir()):
            if entry.name != "__pycache__":
                yield from _files(entry)


def _plugins(root: Path, names: set[str]) -> Iterator[Path]:
    """Modules, actions and filters of ours that go by one of these names."""
    for name in sorted(names):
        for folder in ("library", "action_plugins"):
            yield root / folder / f"{name}.py"
    for path in sorted((root / "filter_plugins").glob("*.py")):
        if names & set(re.findall(r'"(llm_\w+)":', path.read_text())):
            yield path


def _utils(root: Path, text: str) -> Iterator[Path]:
    """Files of module_utils/llm that a Python text imports: modules, and the packages that they are in."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith(f"{_LIBRARY}."):
            continue
        place = root / "module_utils" / (node.module or "").removeprefix("ansible.module_utils.").replace(".", "/")
        for path in (place, *(place / name.name for name in node.names)):
            yield path.with_suffix(".py")
            yield path / "__init__.py"


def _named(root: Path, path: Path) -> Iterator[Path]:
    """What a file names: paths beside it, playbooks, roles, modules and filters; for Python, imports and files beside it."""
    text = path.read_text(errors="replace")
    if path.suffix == ".py":
        yield from _utils(root, text)
        yield from (beside for beside in path.parent.iterdir() if beside.is_file() and f'"{beside.name}"' in text)
        return
    if path.suffix not in (".yml", ".j2"):
        return
    for written in _PATH.findall(text):
        # Molecule looks for test files of other scenarios from the folder of the scenario's own.
        place = (path.parent / "tests" if path.name == "molecule.yml" else path.parent) / written
        yield place.parent if "*" in place.name else place
        yield path.parent / written
    for role in set(_ROLE.findall(text)):
        yield root / "roles" / role
    yield from _plugins(root, set(_NAME.findall(text)))
    if path.parent == root / "playbooks":
        yield root / "group_vars"


def needs(root: Path, scenario: str) -> set[str]:
    """Paths of all files that a scenario depends on, relative to the root, without SHARED."""
    found: set[str] = set()
    todo = list(_files(root / "molecule" / scenario))
    while todo:
        path = Path(os.path.normpath(todo.pop()))
        name = str(path.relative_to(root)) if path.is_relative_to(root) else ""
        if not name or name in found or path.suffix == ".md" or name.startswith(SHARED):
            continue
        found.add(name)
        todo.append(path.resolve())
        for place in _named(root, path):
            inside = Path(os.path.normpath(place))
            if inside.is_relative_to(root) and inside not in (root, root / "molecule"):
                todo += _files(inside)
    return found


def touched(root: Path, changed: Iterable[str]) -> list[str]:
    """Scenarios that depend on one of the changed paths (relative to the root)."""
    names = set(changed)
    if any(name.startswith(SHARED) for name in names):
        return scenarios(root)
    # A file that is gone cannot be found in the tree any more: its folder stands for it.
    gone = {str(Path(name).parent) for name in names if not (root / name).exists()}
    found = []
    for scenario in scenarios(root):
        needed = needs(root, scenario)
        if needed & names or {str(Path(name).parent) for name in needed} & gone:
            found.append(scenario)
    return found


def git(*arguments: str) -> list[str]:
    """Lines that git prints."""
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        sys.exit(f"scenarios: git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout.splitlines()


def main(arguments: list[str]) -> str:
    """Names of the scenarios that are asked for, one a line."""
    match arguments:
        case ["chosen"]:
            names = list(CHOSEN)
        case ["all"]:
            names = scenarios(ROOT)
        case ["changed"] | ["changed", _]:
            base = arguments[1] if len(arguments) > 1 else git("merge-base", "HEAD", "main")[0]
            changed = git("diff", "--name-only", "--no-renames", base) + git(
                "ls-files", "--others", "--exclude-standard"
            )
            names = touched(ROOT, changed)
        case _:
            sys.exit((__doc__ or "").strip())
    return "\n".join(names)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
