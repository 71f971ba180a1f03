"""The Docker daemon as a process of this host: its start, stop and reload, with and without systemd, and its log.

Never reloads systemd, which would detach GPUs from running containers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import daemon
from ansible.module_utils.llm.docker import host as docker_host

LOG = Path("/var/log/docker.log")  # of a daemon without systemd
RELOADS_WITHIN = 15.0
STOPS_WITHIN = 60.0


class DaemonFailed(Exception):
    """What could not be done, where, and what to do."""


class Engine:
    """The Docker daemon of this host: what runs in it, and its start, reload and restart."""

    def __init__(self, module: Module, start_timeout: float = 60.0) -> None:
        """start_timeout: seconds until a started one answers."""
        self.module = module
        self.start_timeout = start_timeout
        self.systemd = Path("/run/systemd/system").is_dir()
        self.since = time.time()
        self.log_size = LOG.stat().st_size if LOG.exists() else 0
        self.look()

    def look(self) -> None:
        """Read process and state again."""
        self.process = docker_host.process()
        try:
            self.info: dict[str, Any] = docker_api.get("/info")
        except docker_api.DockerError:
            self.info = {}

    @property
    def running(self) -> bool:
        """Whether the daemon answered at the last `look`."""
        return bool(self.info)

    def answers(self) -> bool:
        """Whether the daemon answers by now; looks again."""
        self.look()
        return self.running

    def version(self) -> str:
        """Version of the running daemon, or of the program that would run."""
        if self.running:
            return str(self.info["ServerVersion"])
        program = self.module.get_bin_path("dockerd")
        _, out, _ = self.module.run_command([program, "--version"]) if program else (0, "", "")
        found = re.search(r"version ([^,\s]+)", out)
        return found[1] if found else ""

    def containers(self) -> dict[str, str]:
        """Running containers: id to the time of their start."""
        found = {}
        for listed in docker_api.containers(running_only=True) if self.running else []:
            with contextlib.suppress(docker_api.NotFound):  # it ended meanwhile
                found[listed["Id"]] = docker_api.inspect(listed["Id"])["State"]["StartedAt"]
        return found

    def lost(self, before: dict[str, str]) -> list[str]:
        """Containers of `before` that don't run any more, or were started anew."""
        lost = []
        for one, started in before.items():
            try:
                now = docker_api.inspect(one)
                if not now["State"]["Running"] or now["State"]["StartedAt"] != started:
                    lost.append(now["Name"].lstrip("/"))
            except docker_api.NotFound:
                lost.append(one[:12])
        return lost

    def reload(self) -> None:
        """Have the daemon read daemon.json. Raises DaemonFailed when it does not load it."""
        since = f"{time.time():.9f}"
        if self.process is None:
            raise DaemonFailed(f"/{docker_host.PID_FILE} names no daemon that could be signalled to read daemon.json")
        os.kill(self.process["pid"], signal.SIGHUP)
        filters = {"type": ["daemon"], "event": ["reload"]}
        if not waited(
            lambda: docker_api.get("/events", since=since, until=f"{time.time():.9f}", filters=filters), RELOADS_WITHIN
        ):
            raise DaemonFailed("it does not take it")
        self.look()

    def start(self) -> None:
        """Start the daemon and wait until it answers. Raises DaemonFailed when it does not."""
        if self.systemd:
            # One that failed a few times is not tried again by itself, though what was wrong has been repaired.
            self.module.run_command(["systemctl", "reset-failed", "docker.service", "docker.socket"])
            self.enable()
            rc, _, _ = self.module.run_command(["systemctl", "start", "docker.service"])
        else:
            rc = self.start_without_systemd()
        within = self.start_timeout if rc == 0 else 1
        if not waited(self.answers, within):
            raise DaemonFailed("it does not start")

    def enable(self) -> None:
        """Have the daemon started at boot, without a reload of systemd.

        `systemctl enable` does one, and with --no-reload still one for a unit that has an init script beside it.
        """
        _, state, _ = self.module.run_command(["systemctl", "is-enabled", "docker.service"])
        if state.strip() == "disabled":
            helper = self.module.get_bin_path("deb-systemd-helper")
            self.module.run_command(
                [*([helper] if helper else ["systemctl", "--no-reload"]), "enable", "docker.service"]
            )

    def start_without_systemd(self) -> int:
        """Start the daemon by its init script, else detached from this run. Returns the exit status."""
        # The init script ends early where it may not raise its limits (set -e and ulimit), so its start is only a first try.
        rc, _, _ = self.module.run_command(["service", "docker", "start"])
        if rc == 0:
            return 0
        defaults = shlex.quote(daemon.DEFAULTS_FILE)
        script = (
            f"if [ -f {defaults} ]; then . {defaults}; fi; exec start-stop-daemon --start --oknodo --background --make-pidfile "
            f'--pidfile /run/docker-ssd.pid --output {LOG} --startas "$(command -v dockerd)" -- --pidfile /run/docker.pid '
            "$DOCKER_OPTS"
        )
        rc, _, _ = self.module.run_command(["/bin/sh", "-c", script])
        return int(rc)

    def stop(self) -> None:
        """Stop the daemon; with live-restore its containers run on."""
        if self.systemd:
            # Without its socket, which would start it again at the next question.
            self.module.run_command(["systemctl", "stop", "docker.socket", "docker.service"])
        elif self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process["pid"], signal.SIGTERM)
        if not waited(lambda: docker_host.process() is None, STOPS_WITHIN):
            raise DaemonFailed("it does not stop")
        self.look()

    def log(self) -> str:
        """The end of what the daemon logged since the module began."""
        if self.systemd:
            argv = ["journalctl", "--unit=docker", "--no-pager", "--output=cat", f"--since=@{int(self.since)}"]
            _, text, _ = self.module.run_command(argv)
        else:
            text = ""
            with contextlib.suppress(OSError), LOG.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(self.log_size)
                text = stream.read()
        where = "journalctl --unit docker" if self.systemd else str(LOG)
        return f"What its log says ({where}):\n{daemon.log_end(text.splitlines()) or '(nothing)'}"


def waited(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
