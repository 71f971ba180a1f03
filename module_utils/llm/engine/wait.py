"""Waiting for an engine that boots: its container's state, its log, its health, until it is ready or will never be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import http
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import boot, history, log, records

POLL = 0.5
QUIET = 10.0  # seconds without a change after which the last log line is shown; llm_live shows a sign of life every 15
HEALTH_TIMEOUT = 3.0
LOG_LINES_KEPT = 4000


@dataclass(frozen=True)
class State:
    """What matters of a container's state: started in nanoseconds since the epoch."""

    status: str
    started: int
    exit_code: int
    oom_killed: bool
    restarts: int


def read_state(inspected: Mapping[str, Any]) -> State:
    """Read the state out of Docker's answer to inspect."""
    state = inspected.get("State") or {}
    return State(
        status=str(state.get("Status") or "unknown"),
        started=docker_api.parse_time(str(state.get("StartedAt") or "")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        restarts=int(inspected.get("RestartCount") or 0),
    )


def over(state: State, first: State) -> str:
    """Say why waiting any longer is useless, or "" while it is not.

    A restart counts as the end: an engine that failed once fails again the same way, and a restart policy would hide
    it until the timeout.
    """
    if state.restarts > first.restarts or (first.started and state.started > first.started):
        return "exited and was restarted"
    if state.status in ("exited", "dead", "removing"):
        return f"exited (exit code {state.exit_code})"
    if state.status == "restarting":
        return f"exited (exit code {state.exit_code}) and is being restarted"
    if state.status == "paused":
        return "is paused"
    if state.status == "created":
        return "was never started"
    return ""


def ask_health(ip: str, port: int, path: str) -> int:
    """Return the HTTP status of the health path, or 0 when nobody answers."""
    try:
        return http.get(ip, port, path, HEALTH_TIMEOUT, most=0).status
    except OSError:
        return 0


def _history_file(folder: str | None, labels: Mapping[str, str]) -> Path | None:
    """File of the release that a container runs, or None without a folder or for a container that is no release."""
    service, release = labels.get("llm.service"), labels.get("llm.release")
    return Path(folder) / history.file_name(service, release) if folder and service and release else None


class Watch:
    """One boot, watched: reads state, log and health, and keeps what was seen."""

    def __init__(self, params: Mapping[str, Any], progress: Progress) -> None:
        self.container: str = params["container"]
        self.network: str | None = params["network"]
        self.port: int = params["port"]
        self.path: str = params["path"]
        self.progress = progress
        self.inspected = docker_api.inspect(self.container)
        labels = (self.inspected.get("Config") or {}).get("Labels") or {}
        self.history = _history_file(params["history_folder"], labels)
        self.earlier = history.boot_record(history.read(self.history)) if self.history else None
        self.timeout = history.patience(self.earlier, params["timeout"])
        self.first = self.state = read_state(self.inspected)
        begin = self.first.started
        # A service that has run for weeks has a long log; only the boot at its start is of interest.
        self.reader = docker_api.LogReader(
            self.container, since=begin, until=max(begin, time.time_ns()) + (self.timeout + 60) * 10**9
        )
        self.boot = boot.BootProgress(started=begin / 1e9)
        self.lines: list[str] = []
        self.log_error = ""
        self.said_at = time.monotonic()

    def look(self) -> None:
        """Read what is new."""
        self.inspected = docker_api.inspect(self.container)
        self.state = read_state(self.inspected)
        self.read_log()

    def read_log(self) -> None:
        """Read new log lines; a log driver that cannot be read is no reason to stop."""
        try:
            new = self.reader.read()
        except docker_api.DockerUnreachable:
            raise
        except docker_api.DockerError as error:
            self.log_error = str(error)
            return
        before = self.boot.describe()
        for line in new:
            self.lines.append(line.text)
            self.boot = self.boot.feed(line.seconds, line.text)
        del self.lines[:-LOG_LINES_KEPT]
        if self.boot.describe() != before:
            self.say(self.boot.describe())
        elif time.monotonic() - self.said_at >= QUIET:
            self.say(self.boot.quiet())

    def say(self, text: str) -> None:
        """Report the phase."""
        self.said_at = time.monotonic()
        self.progress.say(self.boot.phase, text)

    @property
    def ip(self) -> str:
        """Address of the container in the network, "" without one."""
        return docker_api.container_ip(self.inspected, self.network)

    @property
    def url(self) -> str:
        """Where the engine answers, without a path."""
        return f"http://{self.ip}:{self.port}"

    def healthy(self) -> bool:
        """Whether the engine answers its health path with 200."""
        return bool(self.ip) and ask_health(self.ip, self.port, self.path) == 200

    def result(self) -> dict[str, Any]:
        """What is known of the boot by now, in the form of module llm_engine."""
        found: dict[str, Any] = {
            "changed": False,
            "phases": self.boot.phases(self.boot.ready_at() or time.time()),
            "harvest": boot.harvest(self.lines),
            "cache": boot.compile_cache(self.lines),
            "restarts": self.state.restarts,
        }
        if self.ip:
            found.update(ip=self.ip, url=self.url)
        return found

    def exit(self) -> tuple[int | None, bool]:
        """Return exit code and whether memory ran out; the code is None while the first run goes on."""
        if self.state.status in ("exited", "dead", "restarting", "removing"):
            return self.state.exit_code, self.state.oom_killed
        if self.state.started > self.first.started or self.state.restarts > self.first.restarts:
            try:
                return docker_api.exits(self.container, self.first.started, time.time_ns())
            except docker_api.DockerError:
                return None, False
        return None, False

    def failure(self, what: str, *, remedy: str = "") -> dict[str, Any]:
        """Return the arguments of a failure: what happened, the likely cause, the last lines."""
        exit_code, oom_killed = self.exit()
        cause = boot.likely_cause(self.lines, exit_code=exit_code, oom_killed=oom_killed)
        message = f"The engine in container {self.container} {what}; boot phase: {self.boot.describe()}."
        if cause:
            message += f" {cause.cause} {cause.remedy}"
        elif remedy:
            message += f" {remedy}"
        else:
            message += " Its log names no cause that is known here; log_tail has its last lines."
        if self.log_error:
            message += f" The log could not be read: {self.log_error}"
        found = self.result() | {
            "msg": message,
            "ready": False,
            "cause": asdict(cause) if cause else {},
            "log_tail": log.tail(self.lines),
        }
        if exit_code is not None:
            found.update(exit_code=exit_code, oom_killed=oom_killed)
        return found


def success(watch: Watch, *, waited: bool) -> dict[str, Any]:
    """Return the result for a ready engine; ``waited`` says that it was seen not ready before."""
    watch.read_log()
    ready = watch.boot.ready_at()
    boot_seconds = None
    if ready is not None or waited:
        boot_seconds = round(watch.boot.elapsed(ready if ready is not None else time.time()), 1)
    found = watch.result() | {"ready": True, "boot_seconds": boot_seconds}
    if watch.history:
        found["earlier"] = watch.earlier or {}
        found["late"] = watch.earlier is not None and (boot_seconds or 0.0) > watch.earlier["expected"]
    return found


def keep_boot(watch: Watch, found: Mapping[str, Any]) -> bool:
    """Add a boot to the history of its release. Returns whether it was new; no room for it is no failure."""
    if not watch.history or found["boot_seconds"] is None:
        return False
    made: history.Boot = {
        "at": round(watch.boot.started, 3),
        "seconds": found["boot_seconds"],
        "cache": found["cache"],
        "phases": {row["phase"]: row["seconds"] for row in found["phases"]},
    }
    try:
        return history.add_boot(watch.history, made)
    except OSError:
        return False


def until_ready(module: Module) -> dict[str, Any]:
    """Watch until the engine is ready or its end is certain; the result of module llm_engine, with ``msg`` when it is a failure.

    Raises DockerError where Docker cannot be asked.
    """
    try:
        result = _watched(module)
    except docker_api.NotFound:
        if module.check_mode:
            return {"changed": False, "ready": False, "phases": [], "harvest": {}}
        name = module.params["container"]
        message = f"There is no container {name} on this host. Start it first, or check its name with `docker ps -a`."
        return {"msg": message, "ready": False}
    if "msg" not in result and module.params["record_folder"] and not module.check_mode:
        kept = records.keep(result["harvest"], module.params["record_folder"], module.params["record_key"])
        result |= kept | {"changed": result["changed"] or kept.get("changed", False)}
    return result


def _watched(module: Module) -> dict[str, Any]:
    watch = Watch(module.params, Progress(module.params["progress_file"]))
    if module.check_mode:
        watch.look()
        return success(watch, waited=False) if watch.healthy() else watch.result() | {"ready": False}
    usual = f"; usually ready after {watch.earlier['typical']:g} s" if watch.earlier else ""
    watch.say(watch.boot.describe() + usual)
    end = time.monotonic() + watch.timeout
    waited = False
    while True:
        watch.look()
        ended = over(watch.state, watch.first)
        if ended:
            watch.read_log()
            return watch.failure(ended)
        if watch.healthy():
            found = success(watch, waited=waited)
            return found | {"changed": keep_boot(watch, found)}
        waited = True
        if not watch.ip and watch.state.status == "running":
            attached = ", ".join(sorted((watch.inspected.get("NetworkSettings") or {}).get("Networks") or {})) or "none"
            return watch.failure(
                f"has no address in network {watch.network or '(not named)'}; it is attached to: {attached}",
                remedy="Attach it to that network, or name the right one.",
            )
        if time.monotonic() >= end:
            remedy = "Raise `boot_timeout` of the service if the engine is only slow; log_tail has its last lines."
            what = f"was not ready after {watch.timeout} s"
            if watch.earlier and watch.timeout < module.params["timeout"]:
                what += f", and its slowest boot on this host took {watch.earlier['slowest']:g} s"
                remedy = f"log_tail has its last lines. If this host is that slow now, remove {watch.history}."
            return watch.failure(what, remedy=remedy)
        time.sleep(POLL)
