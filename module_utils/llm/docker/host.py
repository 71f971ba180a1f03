"""Reading a host's Docker daemon beside its API: process, files, packages. Reads only, works where none of them is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypedDict

from ansible.module_utils.llm.base import dpkg
from ansible.module_utils.llm.declare.facts import DaemonFiles, DaemonSettings, DockerFiles
from ansible.module_utils.llm.docker import daemon, openpgp
from ansible.module_utils.llm.docker import packages as docker_packages

PID_FILE = "run/docker.pid"


class Process(TypedDict):
    """A Docker daemon that runs. born: tells it from another process that had the same pid.

    outdated: its program was replaced while it ran, as by an upgrade.
    """

    pid: int
    argv: list[str]
    born: str
    outdated: bool


def process(base: Path = Path("/")) -> Process | None:
    """The Docker daemon of this host; None when the pid file names none."""
    pid = _read(base / PID_FILE).strip()
    place = base / "proc" / pid
    if not pid.isdigit() or _read(place / "comm").strip() != "dockerd":
        return None
    fields = _read(place / "stat").rpartition(")")[2].split()
    if fields[:1] == ["Z"]:
        return None
    try:
        outdated = str((place / "exe").readlink()).endswith(" (deleted)")
    except OSError:  # not ours to read
        outdated = False
    argv = _read(place / "cmdline").split("\0")[:-1]
    return {
        "pid": int(pid),
        "argv": argv,
        "born": f"{pid} {fields[19]}" if len(fields) > 19 else pid,
        "outdated": outdated,
    }


def config_file(engine: Process | None) -> str:
    """Path of the daemon.json that the daemon reads."""
    return daemon.option(engine["argv"], "--config-file") or daemon.FILE if engine else daemon.FILE


def loaded(engine: Process | None, base: Path = Path("/")) -> DaemonSettings | None:
    """What the daemon runs with, where the files say something else by now; None where they don't.

    Written by llm_docker_daemon before it changes a file. A daemon that was started since has loaded the files.
    """
    try:
        found = json.loads((base / daemon.LOADED_FILE.lstrip("/")).read_text(encoding="utf-8"))
        if engine is None or found["engine"] != engine["born"]:
            return None
        environment = {str(name): str(value) for name, value in found["environment"].items()}
        return {"settings": dict(found["settings"]), "environment": environment}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read(base: Path = Path("/")) -> DockerFiles:
    """What the host's files say of Docker, without any password; packages: those of packages.PACKAGES that are installed."""
    engine = process(base)
    file = config_file(engine)
    problem, settings = "", dict[str, object]()
    try:
        settings = daemon.parse((base / file.lstrip("/")).read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except daemon.Broken as error:
        problem = str(error)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"it cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})"
    environment = daemon.read_environment(_read(base / daemon.DEFAULTS_FILE.lstrip("/")))
    runs_with = loaded(engine, base)
    state: DaemonFiles = {
        "file": daemon.hashed(file),
        "problem": daemon.hashed(problem),
        **_comparable({"settings": settings, "environment": environment}),
        "loaded": _comparable(runs_with) if runs_with else None,
    }
    key = _read(base / docker_packages.KEY_FILE.lstrip("/"))
    return {
        "process": engine["pid"] if engine else None,
        "outdated": bool(engine and engine["outdated"]),
        "daemon": state,
        "packages": dpkg.packages(_read(base / "var/lib/dpkg/status"), docker_packages.PACKAGES),
        "repositories": _repositories(base),
        "repository_key": {
            "sha256": hashlib.sha256(key.encode()).hexdigest() if key else "",
            "fingerprints": _prints(key),
        },
    }


def _comparable(runs: DaemonSettings) -> DaemonSettings:
    """Settings and environment without any password."""
    return {
        "settings": daemon.comparable(runs["settings"]),
        "environment": {name: daemon.hashed(value) for name, value in runs["environment"].items()},
    }


def _repositories(base: Path) -> dict[str, dict[str, list[str]]]:
    """What apt's source files name, without any password."""
    folder = base / "etc/apt/sources.list.d"
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".list", ".sources"))
    except OSError:
        return {}
    found = {}
    for name in names:
        named = docker_packages.sources(_read(folder / name))
        found[f"/etc/apt/sources.list.d/{name}"] = {
            part: [daemon.hashed(w) for w in words] for part, words in named.items()
        }
    return found


def _prints(key: str) -> list[str]:
    try:
        return openpgp.fingerprints(key)
    except ValueError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
