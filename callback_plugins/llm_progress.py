"""Signs of life during long tasks, and the time of each stage at the end."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader

DOCUMENTATION = r"""
name: llm_progress
type: aggregate
short_description: Shows that a long task still runs, and what each stage took
description:
  - Prints a line every 15 seconds for a task that has printed nothing since.
  - Prints a table at the end with seconds, tasks and module processes of each stage; a stage is a play, by its name.
  - Module processes are counted from task results. Every result of a task, or of each item of its loop, counts as one when a
    host carried out a module for it. Skipped and unreachable hosts don't count, nor do actions that run on the controller
    alone (set_fact, assert, include_tasks, ...). An action that starts more than one process (template or copy with
    something to change, polling of a background job) still counts as one.
  - The file also has workers, the processes that the controller started, one for each task and host, skipped or not. They are
    what a run costs that has nothing to do.
options:
  timings_file:
    description: File that gets the table as JSON at the end of the run.
    env:
      - name: LLM_TIMINGS_FILE
    type: path
  enabled:
    description: Set to 0 to print neither lines nor table.
    env:
      - name: LLM_PROGRESS
    type: bool
    default: true
"""

QUIET = 15.0
"""Longest silence in seconds."""

# Actions that never start a process on a host.
CONTROLLER_ONLY = frozenset(
    "add_host assert debug fail group_by import_role import_tasks include_role include_tasks include_vars llm_plan meta pause "
    "set_fact set_stats validate_argument_spec".split()
)


def runs_module(action: str) -> bool:
    """Tell whether an action starts a module on a host; the name may be written in full."""
    return action.rpartition(".")[2] not in CONTROLLER_ONLY


@dataclass
class Stage:
    """What one play took: wall time in seconds, tasks that ran on a host or the controller, processes of modules and workers."""

    name: str
    started: float
    seconds: float = 0.0
    tasks: set[str] = field(default_factory=set)
    modules: int = 0
    workers: int = 0


@dataclass
class Running:
    """A task that is under way, on which hosts, since when, and when it last printed something."""

    name: str
    hosts: list[str]
    started: float
    printed: float


class Timings:
    """Collects stages; every time is given by the caller (seconds of a clock that only goes forward)."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._looped: set[tuple[str, str]] = set()

    def stage(self, name: str, now: float) -> None:
        """End the stage under way and begin the next."""
        self.end(now)
        if not (self.stages and self.stages[-1].name == name):
            self.stages.append(Stage(name, now))
        else:
            self.stages[-1].started = now

    def end(self, now: float) -> None:
        """End the stage under way; its time is added, since a serial play begins anew for each batch."""
        if self.stages:
            stage = self.stages[-1]
            stage.seconds += now - stage.started
            stage.started = now

    def begun(self) -> None:
        """Count a task that a host begins, whatever comes of it."""
        if self.stages:
            self.stages[-1].workers += 1

    def item(self, task: str, host: str, action: str, *, skipped: bool) -> None:
        """Count the result of one item of a loop."""
        self._looped.add((task, host))
        if not skipped:
            self._count(task, action)

    def result(self, task: str, host: str, action: str, *, skipped: bool) -> None:
        """Count the result of a task; a loop's items have been counted, its sum is not."""
        looped = (task, host) in self._looped
        self._looped.discard((task, host))
        if not looped and not skipped:
            self._count(task, action)

    def _count(self, task: str, action: str) -> None:
        if self.stages:
            self.stages[-1].tasks.add(task)
            self.stages[-1].modules += runs_module(action)

    def rows(self) -> list[dict[str, Any]]:
        """Return the stages in the order in which they ran."""
        return [
            {
                "stage": stage.name,
                "seconds": round(stage.seconds, 1),
                "tasks": len(stage.tasks),
                "modules": stage.modules,
                "workers": stage.workers,
            }
            for stage in self.stages
        ]

    def report(self) -> dict[str, Any]:
        """Return the whole report: seconds of wall time, counts, stages."""
        rows = self.rows()
        return {
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "tasks": sum(row["tasks"] for row in rows),
            "modules": sum(row["modules"] for row in rows),
            "workers": sum(row["workers"] for row in rows),
            "stages": rows,
        }


def table(report: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    rows = [*report["stages"], {"stage": "total", **{key: report[key] for key in ("seconds", "tasks", "modules")}}]
    width = max(len(row["stage"]) for row in rows)
    head = f"{'stage':<{width}}  {'seconds':>8}  {'tasks':>5}  {'modules':>7}"
    return [head] + [
        f"{row['stage']:<{width}}  {row['seconds']:>8.1f}  {row['tasks']:>5}  {row['modules']:>7}" for row in rows
    ]


def sign_of_life(task: Running, now: float, *, several_hosts: bool) -> str:
    """Return the line for a task that has been silent long enough, or ""; the silence begins anew."""
    if now - task.printed < QUIET or not task.hosts:
        return ""
    task.printed = now
    where = ""
    if several_hosts:
        where = f" on {task.hosts[0]}" if len(task.hosts) == 1 else f" on {len(task.hosts)} hosts"
    return f"… {task.name} still running{where} ({now - task.started:.0f} s)"


@cache
def shows_itself(action: str) -> bool:
    """Tell whether the action prints its own progress: llm_live.py under any of its names."""
    path = action_loader.find_plugin(action)
    return bool(path) and Path(path).resolve().name == "llm_live.py"


def flush() -> None:
    """Write out what has been printed; when its reader is gone, print to nowhere from now on.

    A reader that has quit (`| head`, a closed pager) is no reason to leave a host half done. Without this the error
    meets Ansible's thread that collects results, which then ends, and the run waits for results for ever.
    """
    try:
        sys.stdout.flush()
    except OSError:
        same = os.path.sameopenfile(1, 2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        if same:
            os.dup2(nowhere, 2)
        os.close(nowhere)


class CallbackModule(CallbackBase):
    """Feeds Ansible's events to Timings, and watches the clock in a thread."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llm_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._timings = Timings()
        self._running: dict[str, Running] = {}
        self._hosts: set[str] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._clock = time.monotonic

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            now = self._clock()
            with self._lock:
                lines = [sign_of_life(task, now, several_hosts=len(self._hosts) > 1) for task in self._running.values()]
            for line in filter(None, lines):
                self._display.display(line)
            # Ansible leaves flushing to the system, which holds kilobytes back when the output is a pipe or a file.
            with self._display._lock:
                flush()

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002 - the signature is Ansible's
        """Start the clock's thread."""
        if self.get_option("enabled"):
            threading.Thread(target=self._watch, daemon=True).start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin a stage."""
        self._timings.stage(play.get_name().strip() or "play", self._clock())

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note that a host has begun a task."""
        now = self._clock()
        self._timings.begun()
        with self._lock:
            self._hosts.add(host.get_name())
            if shows_itself(task.action) and not task.check_mode:
                return
            running = self._running.setdefault(task._uuid, Running(task.get_name().strip(), [], now, now))
            running.hosts.append(host.get_name())

    def _printed(self, result: Any) -> None:
        with self._lock:
            if result.task._uuid in self._running:
                self._running[result.task._uuid].printed = self._clock()

    def _finished(self, result: Any, *, skipped: bool = False) -> None:
        task, host = result.task, result.host.get_name()
        with self._lock:
            running = self._running.get(task._uuid)
            if running:
                running.printed = self._clock()
                if host in running.hosts:
                    running.hosts.remove(host)
                if not running.hosts:
                    del self._running[task._uuid]
        self._timings.result(task._uuid, host, task.action, skipped=skipped)

    def _item(self, result: Any, *, skipped: bool = False) -> None:
        self._printed(result)
        self._timings.item(result.task._uuid, result.host.get_name(), result.task.action, skipped=skipped)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count a result."""
        self._finished(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002 - as above
        """Count a result."""
        self._finished(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note the end of a task that did nothing."""
        self._finished(result, skipped=True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note the end of a task that reached no host."""
        self._finished(result, skipped=True)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Count an item's result."""
        self._item(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Count an item's result."""
        self._item(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Note an item that did nothing."""
        self._item(result, skipped=True)

    def v2_runner_retry(self, result: Any) -> None:
        """Note that something was printed."""
        self._printed(result)

    def v2_runner_on_async_poll(self, result: Any) -> None:
        """Note that something was printed."""
        self._printed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - as above
        """Print the table and write the file."""
        self._done.set()
        self._timings.end(self._clock())
        report = self._timings.report()
        if self.get_option("enabled") and report["stages"]:
            self._display.display("\n".join(["", *table(report), ""]))
        file = self.get_option("timings_file")
        if file:
            try:
                Path(file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                self._display.warning(
                    f"LLM_TIMINGS_FILE {file}: {error.strerror}. Name a file in a folder that exists."
                )
