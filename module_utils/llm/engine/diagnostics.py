"""What is kept of an engine before it is stopped or removed because something was wrong with it.

One folder a time, `<service folder>/diagnostics/<time>-<release>/`, with as many of these files as could be had:

    cause.json     {"at", "service", "release", "container", "step", "cause", "attempt", "state", "verdict", "missing"}
    log.txt        the end of the container's log
    metrics.txt    what /metrics said
    inspect.json   Docker's inspection of the container
    gpu.txt        nvidia-smi, on the host or (the supervisor) in the container

`at` is UTC, the folder's name holds it as 20261125T101530Z. `attempt` says that a deployment of the release failed by it; else the
supervisor wrote it, or the release was tried once more. `state` is {"status", "exit_code", "oom_killed", "restarts"},
`verdict` the one of the smoke test, `missing` maps a file that could not be had to the reason. No file holds a secret.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.redact import redact, shorten
from ansible.module_utils.llm.declare.facts import FailedDeployment
from ansible.module_utils.llm.docker import api as docker_api

FOLDER = "diagnostics"
CAUSE = "cause.json"
LOG_LINES = 2000
LARGEST = 512 * 1024
"""Characters of a file; of the log the end is kept, of everything else the beginning."""
KEPT = 10
"""Folders of a service that are kept, the newest ones."""
SHORT = 300
"""Characters of a cause for a table."""

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:key|keys|token|secret|password|passwd|pass|credentials?|auth)(?:$|[_-])|apikey"
)
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]+(?:\.\d+)?")


def folder_name(at: float, release: str) -> str:
    """Name of the folder for a time in seconds since the epoch; names sort by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at))}-{release or 'unknown'}"


def stale(names: Sequence[str], keep: int = KEPT) -> list[str]:
    """Oldest folders of diagnostics to remove so that `keep` are left; names of another form are never among them."""
    ours = sorted(name for name in names if _NAME.fullmatch(name))
    return ours[: max(0, len(ours) - keep)]


def is_secret(name: str) -> bool:
    """Whether a variable or flag of this name holds a secret."""
    return bool(_SECRET_NAME.search(name))


def masked(value: Any, secrets: Sequence[str] = (), name: str = "") -> Any:
    """Return Docker's inspection, or any part of it, without secrets: those given, and what is named or looks like one."""
    if isinstance(value, Mapping):
        return {key: masked(entry, secrets, str(key)) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        found: list[Any] = []
        hide = False  # the value of a secret flag is the next argument
        for entry in value:
            found.append(HIDDEN if hide else masked(entry, secrets))
            flag = entry.partition("=")[0] if isinstance(entry, str) else ""
            hide = flag.startswith("--") and flag == entry and is_secret(flag)
        return found
    if not isinstance(value, str):
        return value
    variable, equals, _content = value.partition("=")
    if equals and is_secret(variable) and " " not in variable:
        return f"{variable}={HIDDEN}"
    if value and is_secret(name):
        return HIDDEN
    return redact(value, secrets)


def bounded(text: str, *, end: bool = False) -> str:
    """Cut a text to LARGEST characters, keeping its end or its beginning, and say so."""
    if len(text) <= LARGEST:
        return text
    return f"[cut]\n{text[-LARGEST:]}" if end else f"{text[:LARGEST]}\n[cut]\n"


def write(place: Path, parts: Mapping[str, str], keep: int = KEPT) -> Path:
    """Write one folder of files below `place`, and remove the oldest ones beyond `keep`. Returns the folder.

    place: `<service folder>/diagnostics/<time>-<release>`. It appears whole or not at all; a second one of the same second
    gets a number. Only root reads it: a log can hold what users wrote. OSError when there is no room.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(mode=0o700)
        for name, text in parts.items():
            files.write(unfinished / name, text, 0o600)
        final, number = place, 1
        while final.exists():
            final, number = place.with_name(f"{place.name}.{number}"), number + 1
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in stale([entry.name for entry in place.parent.iterdir()], keep):
        shutil.rmtree(place.parent / old, ignore_errors=True)
    return final


def collected(cause: Mapping[str, Any], parts: Mapping[str, str], secrets: Sequence[str]) -> dict[str, str]:
    """The files to write: bounded, without secrets, with cause.json."""
    found = {name: bounded(redact(text, secrets), end=name == "log.txt") for name, text in parts.items()}
    return {**found, CAUSE: json.dumps(masked(cause, secrets), indent=1, sort_keys=True, ensure_ascii=False) + "\n"}


def secrets_of(release: Path) -> list[str]:
    """The keys of a release (its folder): its log could hold one."""
    key = files.read(release / "secrets" / "client-key").strip()
    return [key] if key else []


def collect(
    service: Path,
    about: Mapping[str, Any],
    more: Mapping[str, Callable[[Mapping[str, Any]], str]],
    keep: int = KEPT,
) -> tuple[str, dict[str, str]]:
    """Collect what explains an engine, and write it below the service's folder. Never fails.

    about: {service, release, container, step, cause, verdict}, `attempt` where that is so, and `at` where it failed earlier than
    now. more: further files, name to what reads them; it gets Docker's inspection ({} when there is none), and raises OSError with
    the reason when it has nothing. Returns the folder ("" when it could not be written), and what is missing.
    """
    at = time.time()
    secrets = secrets_of(service / "releases" / about["release"])
    parts: dict[str, str] = {}
    missing: dict[str, str] = {}
    inspected: dict[str, Any] = {}

    def inspection(_: Mapping[str, Any]) -> str:
        inspected.update(docker_api.inspect(about["container"]))
        return json.dumps(masked(inspected, secrets), indent=1, sort_keys=True) + "\n"

    def log(_: Mapping[str, Any]) -> str:
        lines = sorted(docker_api.logs(about["container"], tail=LOG_LINES), key=lambda line: line.at)
        return "".join(f"{line.text}\n" for line in lines)

    for name, read in {"inspect.json": inspection, "log.txt": log, **more}.items():
        try:
            parts[name] = read(inspected)
        except Exception as error:  # noqa: BLE001 - one part that cannot be had must not cost the others
            missing[name] = str(error) or type(error).__name__
    cause = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        **about,
        "state": state_of(inspected) if inspected else {},
        "missing": missing,
    }
    place = service / FOLDER / folder_name(at, about["release"])
    try:
        return str(write(place, collected(cause, parts, secrets), keep)), missing
    except OSError as error:
        return "", {**missing, str(place): error.strerror or str(error)}


def last_attempt(service: Path) -> tuple[float, FailedDeployment] | None:
    """The newest deployment of a service that failed, of what is kept of it; None when there is none.

    service: its folder. Returns when that was written (seconds since the epoch, by the clock of its file system), and what it was.
    """
    found: list[tuple[float, FailedDeployment]] = []
    for path in (service / FOLDER).glob(f"*/{CAUSE}"):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if _NAME.fullmatch(path.parent.name) and kept["attempt"] is True:
                failed: FailedDeployment = {
                    "at": str(kept["at"]),
                    "release": str(kept["release"]),
                    "step": str(kept["step"]),
                    "cause": shorten(" ".join(str(kept["cause"]).split()), SHORT),
                    "folder": str(path.parent),
                }
                found.append((path.lstat().st_mtime, failed))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(found, key=lambda entry: entry[0], default=None)


def state_of(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The container's state in short."""
    state = inspected.get("State") or {}
    return {
        "status": state.get("Status"),
        "exit_code": state.get("ExitCode"),
        "oom_killed": bool(state.get("OOMKilled")),
        "restarts": inspected.get("RestartCount"),
    }
