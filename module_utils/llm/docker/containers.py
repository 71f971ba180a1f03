"""What is done with a container on a host: look, stop, signal, remove; start it from a compose file, and hear its last words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.llm.base.module import RunCommand
from ansible.module_utils.llm.docker import api

GRACE = 10  # seconds that Docker gives a container to end, where the container names no other
TAIL = 20  # lines of a log that are shown


def inspected(name: str) -> dict[str, Any] | None:
    """Docker's inspection of a container (name or id), None when there is none."""
    try:
        return api.inspect(name)
    except api.NotFound:
        return None


def is_up(inspection: Mapping[str, Any] | None) -> bool:
    """Whether a container runs, is paused (it then holds its memory), or is about to be started again by Docker."""
    state = inspection["State"] if inspection else {}
    return bool(state.get("Running") or state.get("Restarting"))


def running(name: str) -> dict[str, Any] | None:
    """Docker's inspection of a container that is up (see is_up), None otherwise."""
    found = inspected(name)
    return found if is_up(found) else None


def stop(name: str) -> bool:
    """Stop a container with its own grace period. Returns whether it was up."""
    found = running(name)
    if not found:
        return False
    grace = int(found["Config"].get("StopTimeout") or GRACE)
    api.post(f"{_path(name)}/stop?t={grace}", timeout=grace + 30)
    return True


def signal(name: str, which: str) -> None:
    """Send a signal, such as `USR1`, to the first process of a container."""
    api.post(f"{_path(name)}/kill?signal={which}")


def remove(name: str) -> bool:
    """Remove a container; one that runs is killed. Returns whether there was one."""
    try:
        api.delete(f"{_path(name)}?force=1")
    except api.NotFound:
        return False
    return True


def compose_up(run_command: RunCommand, project: str, documents: Sequence[Path], *, recreate: bool = True) -> str:
    """Start a project's containers from compose files, of images that are on the host already.

    recreate: also those that run as the files say are made anew. Returns why they do not start, "" when they do.
    """
    argv = ["docker", "compose", "--project-name", project]
    for document in documents:
        argv += ["--file", str(document)]
    argv += ["up", "--detach", "--no-build", "--pull", "never", *(["--force-recreate"] if recreate else [])]
    rc, out, err = run_command(argv)
    return "" if rc == 0 else (err or out).strip() or f"Compose ended with {rc}"


def last_words(run_command: RunCommand, name: str) -> str:
    """The end of a container's log, as a sentence of an error message."""
    _, out, err = run_command(["docker", "logs", "--tail", str(TAIL), name])
    return f"Its last words: {out}{err}"


def _path(name: str) -> str:
    return f"/containers/{quote(name, safe='')}"
