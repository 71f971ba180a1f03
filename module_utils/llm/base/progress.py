"""Progress that a long module leaves in a file for the action plugin that watches it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TextIO

from ansible.module_utils.llm.base import lease

LEASE = 120.0
"""Seconds without a watcher after which a watched module ends itself."""


def lease_path(path: str | Path) -> Path:
    """Return the file that the watcher of a progress file touches at every look."""
    return Path(f"{path}.watched")


class Progress:
    """Appends one JSON line for each step; without a path it does nothing.

    A line: ``{"at": seconds since the epoch, "elapsed": seconds since the start, "phase": "weights", "message": "..."}``.

    Once a watcher has touched the lease file, the module depends on it: when nobody has looked for LEASE seconds (the
    playbook was killed, the connection is gone) the module's process group is ended, so that a second run never meets
    the first one's leftovers at work. The same happens at once when the watcher's run holds a lease of the host, which is
    renewed here, and another run has taken it over.
    """

    def __init__(self, path: str | Path | None, lease: float = LEASE) -> None:
        self._path = Path(path).expanduser() if path else None
        self._start = time.monotonic()
        self._lease = lease
        if self._path:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            threading.Thread(target=self._guard, daemon=True).start()

    def say(self, phase: str, message: str = "") -> None:
        """Append one line; a full or vanished disk must not stop the work that it reports on."""
        if not self._path:
            return
        entry = {
            "at": round(time.time(), 3),
            "elapsed": round(time.monotonic() - self._start, 1),
            "phase": phase,
            "message": message,
        }
        # One write to a file opened for appending is never torn or mixed with another's.
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, (json.dumps(entry) + "\n").encode())
            finally:
                os.close(handle)
        except OSError:
            return

    def _guard(self) -> None:
        assert self._path is not None  # noqa: S101 - the thread is started with a path only
        watched = lease_path(self._path)
        lost = False
        working: TextIO | None = None
        while True:
            time.sleep(min(1.0, self._lease / 4))
            try:
                age = time.time() - watched.stat().st_mtime
                run, _, place = watched.read_text(encoding="utf-8").partition(" ")
                if place:
                    working = working or lease.at_work(Path(place))
                    lost = not lease.renew(Path(place), run)
            except OSError:
                continue
            if age > self._lease or lost:
                for leftover in (self._path, watched):
                    leftover.unlink(missing_ok=True)
                os.killpg(os.getpgrp(), signal.SIGTERM)


def parse_last(text: str) -> tuple[str, str] | None:
    """Return (phase, message) of a progress line, or None when it is empty, cut or foreign."""
    try:
        entry = json.loads(text)
        return str(entry["phase"]), str(entry["message"])
    except (ValueError, KeyError, TypeError):
        return None
