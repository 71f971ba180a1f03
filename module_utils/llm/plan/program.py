"""A program of ours in a container of its own: the files that it needs on a host, and whether the host has them. Pure functions."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TypedDict

from ansible.module_utils.llm.declare.facts import Content

LIBRARY = "ansible.module_utils.llm"
SUM = "LOADED"  # in a compose file: stands for the checksum, which is taken before it is there


class Wanted(TypedDict):
    """What is to be on a host: path to content ({} for nothing), what is to be loaded of it, and whether that is so already."""

    files: dict[str, str]
    loaded: str
    good: bool


class Found(TypedDict, total=False):
    """What module llm_host_facts says of a program (see declare/facts.Program); {} where the host was not read."""

    files: dict[str, str | None]
    state: str
    loaded: str


def sha256(text: str) -> str:
    """Checksum of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sums(texts: Mapping[str, str]) -> dict[str, str]:
    """Path to checksum, as module llm_host_facts says it of files on a host."""
    return {path: sha256(text) for path, text in texts.items()}


def imported(text: str) -> set[str]:
    """What a Python text imports of LIBRARY, as paths below it (`base/files`); names of functions are among them."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {n.removeprefix(f"{LIBRARY}.").replace(".", "/") for n in named if n.startswith(f"{LIBRARY}.")}


def packed(name: str, own: Mapping[str, str], library: Callable[[str], str | None]) -> dict[str, str]:
    """A program's code below its folder on a host: its own files, and the modules of LIBRARY that these need in the end.

    own: file name to content. library: gives the text of a module by its path (see `imported`), None where there is no such module.
    Packages come without their `__init__.py`: Python needs none.
    """
    found = {f"app/{name}/{file}": text for file, text in own.items()}
    todo, seen = [*own.values()], set[str]()
    while todo:
        for module in sorted(imported(todo.pop()) - seen):
            seen.add(module)
            text = library(module)
            if text is not None:
                found[f"app/{LIBRARY.replace('.', '/')}/{module}.py"] = text
                todo.append(text)
    return found


def wanted(code: Mapping[str, str], config: Content, compose: str, found: Found) -> Wanted:
    """A program as it is to be on a host. code: see `packed`. compose: its compose file, "" where it is not to run.

    The label with the checksum is what its container
    was started with: files that were replaced since are not loaded.
    """
    state = found.get("state", "absent")
    if not compose:
        return {"files": {}, "loaded": "", "good": state == "absent" and not found.get("files")}
    parts = {**code, "config.json": json.dumps(config, indent=4, sort_keys=True)}
    loaded = sha256(json.dumps(parts, sort_keys=True) + compose)
    files = {**parts, "compose.yml": compose.replace(SUM, loaded)}
    good = state == "running" and found.get("loaded") == loaded and found.get("files") == sums(files)
    return {"files": files, "loaded": loaded, "good": good}
