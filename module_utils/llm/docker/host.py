"""Reading a host's Docker daemon beside its API: process, files, packages. Reads only, works where none of them is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import dpkg
from ansible.module_utils.llm.docker import daemon, openpgp
from ansible.module_utils.llm.docker import packages as docker_packages

PID_FILE = "run/docker.pid"


def process(base: Path = Path("/")) -> dict[str, Any] | None:
    """{pid, argv, born, outdated} of this host's Docker daemon; None when the pid file names none.

    born: tells it from another process that had the same pid. outdated: its program was replaced while it ran, as by an upgrade.
    """
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


def config_file(engine: dict[str, Any] | None) -> str:
    """Path of the daemon.json that the daemon reads."""
    return daemon.option(engine["argv"], "--config-file") or daemon.FILE if engine else daemon.FILE


def loaded(engine: dict[str, Any] | None, base: Path = Path("/")) -> dict[str, Any] | None:
    """{settings, environment} that the daemon runs with, where the files say something else by now; None where they don't.

    Written by llm_docker_daemon before it changes a file. A daemon that was started since has loaded the files.
    """
    try:
        found = json.loads((base / daemon.LOADED_FILE.lstrip("/")).read_text(encoding="utf-8"))
        if engine is None or found["engine"] != engine["born"]:
            return None
        return {"settings": dict(found["settings"]), "environment": dict(found["environment"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(base: Path = Path("/")) -> dict[str, Any]:
    """{process, outdated, daemon, packages, repositories, repository_key}, without any password.

    daemon: {file, problem, settings, loaded, environment}; problem: why the file can't be read, "". packages: {name: {version,
    held}} of packages.PACKAGES. repositories: {apt source file: {urls, suites}}. repository_key: {sha256, fingerprints}.
    """
    engine = process(base)
    file = config_file(engine)
    problem, settings = "", {}
    try:
        settings = daemon.parse((base / file.lstrip("/")).read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except daemon.Broken as error:
        problem = str(error)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"it cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})"
    environment = daemon.read_environment(_read(base / daemon.DEFAULTS_FILE.lstrip("/")))
    state = {
        "file": file,
        "problem": problem,
        "settings": settings,
        "loaded": loaded(engine, base),
        "environment": environment,
    }
    key = _read(base / docker_packages.KEY_FILE.lstrip("/"))
    return {
        "process": engine["pid"] if engine else None,
        "outdated": bool(engine and engine["outdated"]),
        "daemon": daemon.comparable(state),
        "packages": dpkg.packages(_read(base / "var/lib/dpkg/status"), docker_packages.PACKAGES),
        "repositories": daemon.comparable(_repositories(base)),
        "repository_key": {
            "sha256": hashlib.sha256(key.encode()).hexdigest() if key else "",
            "fingerprints": _prints(key),
        },
    }


def _repositories(base: Path) -> dict[str, Any]:
    folder = base / "etc/apt/sources.list.d"
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".list", ".sources"))
    except OSError:
        return {}
    return {f"/etc/apt/sources.list.d/{n}": docker_packages.sources(_read(folder / n)) for n in names}


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
