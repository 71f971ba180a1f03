"""Who may change a host: one run at a time, which says so in a file there (see Lease).

A lock such as that of `filelock` ends with its process, while a run changes a host by many short processes, from another
machine. So flock serves two smaller things: writes of the file, and modules that are still at work when their run has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO, TypedDict

from ansible.module_utils.llm.base import files

FILE = "state/lease.json"  # below the project's folder
VALID = 900.0
"""Seconds that a lease holds after its last renewal: longer than any step that does not renew it (installing packages)."""
LEFTOVER = 30.0
"""Seconds to wait for the modules of a run that is gone; they look every few seconds whether their run still holds the host."""


class Claim(TypedDict):
    """Who a run is. holder: user@controller. controller: id of the machine and its process table. run: id of the run.

    pid: the process that lives as long as the run. started: boot and start time of that process.
    """

    holder: str
    controller: str
    pid: int
    started: str
    run: str


class Lease(Claim):
    """Which run has a host; without a holder the host is free. since, expires: seconds since the epoch by the host's clock.

    processes: the process table of the host if the run is a process of it, else "". services: names of those that the run changes.
    generation: how many runs have taken the host; it stays when one gives it back.
    """

    processes: str
    since: float
    expires: float
    services: list[str]
    generation: int


class HostLease(Lease):
    """A lease as facts of a host have it. left: seconds until it expires, by the host's clock; 0 where no run has the host."""

    left: float


class _Displaced(TypedDict):
    service: str


class _Displaces(TypedDict, total=False):
    displaces: Sequence[_Displaced]


class _Deployed(_Displaces):
    name: str


class Work(TypedDict, total=False):
    """What of a plan's work changes services: those that it deploys with those that make room, stops, or removes."""

    deploy: Sequence[_Deployed]
    stop: Sequence[_Displaced]
    removed: Sequence[_Displaced]


FREE: Lease = {
    "holder": "",
    "controller": "",
    "pid": 0,
    "started": "",
    "processes": "",
    "run": "",
    "since": 0.0,
    "expires": 0.0,
    "services": [],
    "generation": 0,
}


class Held(Exception):
    """Another run has the host, or had it since it was read; the text says which and what to do."""


def read(path: Path) -> Lease:
    """The lease of a host; FREE when there is none that can be read."""
    try:
        found: dict[str, Any] = {**FREE, **json.loads(path.read_text(encoding="utf-8"))}
        return {
            "holder": str(found["holder"]),
            "controller": str(found["controller"]),
            "pid": int(found["pid"]),
            "started": str(found["started"]),
            "processes": str(found["processes"]),
            "run": str(found["run"]),
            "since": float(found["since"]),
            "expires": float(found["expires"]),
            "services": list(found["services"]),
            "generation": int(found["generation"]),
        }
    except (OSError, ValueError, TypeError):
        return {**FREE}


def facts(path: Path) -> HostLease:
    """The lease, with what is left of it. Clocks of controller and host may differ; this is the host's."""
    found, now = read(path), time.time()
    return {**found, "left": round(found["expires"] - now, 1) if _live(found, now) else 0.0}


def services(work: Work) -> list[str]:
    """Names of the services that a plan's work will start, stop, displace or remove."""
    deploy = work.get("deploy", [])
    displaced = [d["service"] for entry in deploy for d in entry.get("displaces", [])]
    ending = [e["service"] for e in (*work.get("stop", []), *work.get("removed", []))]
    return sorted({*(e["name"] for e in deploy), *displaced, *ending})


def refusal(found: Lease, left: float) -> str:
    """Why a run must wait, for a person."""
    since = datetime.fromtimestamp(found["since"], timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = f"services {', '.join(found['services'])}" if found["services"] else "the host itself"
    return (
        f"another run changes this host: {found['holder']} (pid {found['pid']}) since {since}, {what}. Wait until it ends, and "
        f"run again. If it was killed, the host is free at once for its own controller, in {int(left // 60) + 1} minutes for others"
    )


# ---------------------------------------------------------------------------------------------------------------------
# On the controller.


def claimant(pid: int) -> Claim:
    """Who a run is. pid: the process that lives as long as the run."""
    controller, started = _controller(), _started(pid)
    run = hashlib.sha256(f"{controller} {pid} {started}".encode()).hexdigest()[:12]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = str(os.getuid())
    holder = f"{user}@{socket.gethostname()}"
    return {"holder": holder, "controller": controller, "pid": pid, "started": started, "run": run}


def is_mine(found: Claim, pid: int) -> bool:
    """Whether the run of this process holds the lease."""
    return bool(found["run"]) and found["run"] == claimant(pid)["run"]


def is_dead(found: Claim) -> bool:
    """Whether the holder was a process of this machine that has ended. False for another machine's: nothing is known of it."""
    return bool(found["run"]) and found["controller"] == _controller() and _started(found["pid"]) != found["started"]


def _controller() -> str:
    """The machine and its process table: containers share a machine and not its processes, and copies share an id."""
    parts = [files.read(Path("/etc/machine-id")).strip(), socket.gethostname(), _processes()]
    return hashlib.sha256(" ".join(filter(None, parts)).encode()).hexdigest()[:16]


def _processes() -> str:
    """The process table that this process is in and sees, "" when the system does not tell."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _started(pid: int) -> str:
    """Boot and start time of a process, "" when there is none: a number of a process is used again."""
    stat = files.read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if len(stat) < 20 or stat[0] in ("Z", "X"):
        return ""
    return f"{files.read(Path('/proc/sys/kernel/random/boot_id')).strip()[:8]}/{stat[19]}"


# ---------------------------------------------------------------------------------------------------------------------
# On the host.


def take(path: Path, claim: Claim, names: Iterable[str], generation: int, dead: str = "") -> Lease:
    """Take the host for a run, or renew what it has; returns the lease.

    claim: see claimant. generation: as the run has read it. dead: id of a run that the controller knows to be gone.
    Raises Held when another run has the host, or had it after it was read.
    """
    with _locked(path):
        found, now = read(path), time.time()
        ours = found["run"] == claim["run"]
        if not ours:
            if found["run"] != dead and _live(found, now):
                raise Held(refusal(found, found["expires"] - now))
            if found["generation"] != generation:
                raise Held("another run changed this host since it was read. Nothing was touched; run again")
        lease: Lease = {
            **claim,
            "processes": _processes() if claim["controller"] == _controller() else "",
            "since": found["since"] if ours else now,
            "expires": now + VALID,
            "services": sorted(names),
            "generation": found["generation"] + (not ours),
        }
        _write(path, lease)
        if not ours and found["run"]:
            _await_leftovers(path)
    return lease


def renew(path: Path, run: str) -> bool:
    """Renew a lease that is half over. Returns whether the run still has the host."""
    found = read(path)
    if found["run"] == run and found["expires"] - time.time() < VALID / 2:
        with _locked(path):
            found = read(path)
            if found["run"] == run:
                _write(path, {**found, "expires": time.time() + VALID})
    return found["run"] == run


def release(path: Path, run: str) -> bool:
    """Give the host back. Returns whether the run had it."""
    if not path.exists():
        return False
    with _locked(path):
        found = read(path)
        if found["run"] == run:
            _write(path, {**FREE, "generation": found["generation"]})
        return found["run"] == run


@contextlib.contextmanager
def no_run_begins(path: Path, service: str) -> Iterator[str]:
    """Let runs that want the host wait for the caller's few seconds of work on a service.

    Yields who changes the service already, "" when nobody does: then, and only then, it may be touched.
    """
    with _locked(path):
        yield holder(path, service)


def holder(path: Path, service: str) -> str:
    """Which run changes a service of this host now, "" when none does."""
    found = read(path)
    live = service in found["services"] and (_live(found, time.time()) or (found["run"] and _left_at_work(path)))
    return f"{found['holder']} (pid {found['pid']})" if live else ""


def _live(found: Lease, now: float) -> bool:
    """Whether a run has the host: one on the host itself for as long as it lives, another one until its lease expires."""
    gone = found["processes"] and found["processes"] == _processes() and _started(found["pid"]) != found["started"]
    return bool(found["run"]) and found["expires"] > now and not gone


def at_work(path: Path) -> TextIO:
    """Let the next run wait for this module as long as the answer is kept: modules in the background outlive their run."""
    stream = _place(path, "work").open("a")
    fcntl.flock(stream, fcntl.LOCK_SH)
    return stream


def _await_leftovers(path: Path) -> None:
    end = time.monotonic() + LEFTOVER
    while _left_at_work(path):
        if time.monotonic() > end:
            raise Held("a module of a run that was killed is still at work on this host. Wait a minute, and run again")
        time.sleep(0.2)


def _left_at_work(path: Path) -> bool:
    with _place(path, "work").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _place(path, "lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _place(path: Path, what: str) -> Path:
    return path.with_name(f".{path.stem}.{what}")


def _write(path: Path, lease: Lease) -> None:
    files.write(path, json.dumps(lease, indent=1, sort_keys=True) + "\n")
