"""Runs a long module in the background of its host and shows what it is doing, line by line.

One plugin for several modules: a link named like the module makes it that module's action. The module reports through
`module_utils/llm/base/progress.py`, into the file that this plugin passes as `progress_file`.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible serves module_utils/ to modules only; action plugins run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import lease
from ansible.module_utils.llm.base.progress import lease_path, parse_last

display = Display()

LONGEST = 24 * 3600
"""Seconds after which the host ends the module, whatever the module's own timeout is."""
QUIET = 15.0
"""Longest silence in seconds."""
LOST = 120.0
"""Seconds that a host may be out of reach before the task fails."""
ALIVE_EVERY = 5.0
"""Seconds between two looks for the module's processes."""
MARK = "--llm-live--"
KILLED = "Look for the kernel's out-of-memory killer (`dmesg`) and for a reboot on that host, then run the play again."


@dataclass(frozen=True)
class Poll:
    """What one look at the host found: the result when there is one, the newest progress line, a sign of life."""

    result: str | None
    progress: tuple[str, str] | None
    alive: bool | None


def look_command(results_file: str, progress_file: str, job: str, *, check_alive: bool, holds: str = "") -> str:
    """Return the shell command of one look: no Python is started for it.

    holds: the run and its lease of the host, which the module renews; see Progress.

    The name of the job (its id up to the dot) is an argument of its own of each process of the job wrapper.
    """
    result, progress, watched = (
        shlex.quote(path) for path in (results_file, progress_file, str(lease_path(progress_file)))
    )
    parts = [
        f"printf %s {shlex.quote(holds)} > {watched}",
        f"cat {result}",
        f"echo; echo {MARK}",
        f"tail -n 1 {progress}",
        f"echo; echo {MARK}",
    ]
    if check_alive:
        parts.append(f"grep -lsxzF {shlex.quote(job.partition('.')[0])} /proc/[0-9]*/cmdline")
    return "{ " + "; ".join(parts) + "; } 2>/dev/null; true"


def read_look(output: str, *, check_alive: bool) -> Poll:
    """Take the answer of a look apart; anything half-written counts as not there yet."""
    parts = [part.strip() for part in (output.split(MARK) + ["", ""])[:3]]
    result = None
    try:
        data = json.loads(parts[0])
    except ValueError:
        data = None
    # While the module runs, the file holds {"started": ..., "finished": false}; afterwards the module's own result.
    if isinstance(data, dict) and ("started" not in data or data.get("finished")):
        result = parts[0]
    return Poll(result, parse_last(parts[1]), bool(parts[2]) if check_alive else None)


def ended_badly(data: Mapping[str, Any]) -> str:
    """Return a message when the host's job wrapper reports for a module that wrote no result itself, else ""."""
    if "child_pid" in data and data.get("msg") == "Timeout exceeded":
        return f"was ended after {LONGEST // 3600} hours"
    if data.get("failed") and "cmd" in data and ("data" in data or "outdata" in data):
        said = str(data.get("stderr") or data.get("data") or data.get("outdata") or "").strip()
        return "ended without a result: it was killed, or has crashed" + (f" (it said: {said[-500:]})" if said else "")
    return ""


class Narrator:
    """Decides what to print and when: a line that is new, or a sign of life after a silence."""

    def __init__(self, host: str, name: str, start: float, *, secret: bool) -> None:
        self.name = name
        self._prefix = f"  {host} | {name}"
        self._start = self._last = start
        self._shown: tuple[str, str] | None = None
        self._secret = secret

    def line(self, now: float, progress: tuple[str, str] | None) -> str:
        """Return the line to print now, or "". With no_log a line says nothing but the time."""
        changed = progress is not None and progress != self._shown and not self._secret
        if not changed and now - self._last < QUIET:
            return ""
        self._shown, self._last = progress or self._shown, now
        seconds = int(now - self._start)
        text = f"{self._prefix} | {seconds // 60}:{seconds % 60:02d}"
        if self._secret or self._shown is None:
            return f"{text} | running"
        phase, message = self._shown
        return f"{text} | {phase}: {message}" if message else f"{text} | {phase}"


class ActionModule(ActionBase):
    """Runs the module of the task's own name; its result is returned as it is."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start the module, watch it, return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        name = self._task.action.rpartition(".")[2]
        # Check mode starts no background jobs, and a task with `async` of its own is watched by whoever asked for that.
        if self._task.check_mode or self._task.async_val:
            asynchronous = bool(self._task.async_val)
            result.update(self._execute_module(name, self._task.args, task_vars=task_vars, wrap_async=asynchronous))
            if not asynchronous:
                self._remove_tmp_path(self._connection._shell.tmpdir)
            return result
        result.update(self._watched(name, task_vars or {}))
        return result

    def _watched(self, name: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        folder = self.get_shell_option("async_dir", default="~/.ansible_async")
        own = self._task.args.get("progress_file")
        progress_file = own or f"{folder}/{name}.{secrets.token_hex(8)}.progress"
        begin = time.monotonic()
        # Once the module is in the background, Ansible no longer knows its folder.
        place = str(self._make_tmp_path())
        started = self._start(name, dict(self._task.args, progress_file=progress_file), task_vars)
        if started.get("failed") or "ansible_job_id" not in started:
            # A start counts as a change for Ansible, also one that failed.
            return dict(started, changed=False)
        results_file = str(started["results_file"])
        # The wrapper has expanded ~ for the user that the module runs as; the shell's quotes would not.
        if not own:
            progress_file = f"{results_file.rpartition('/')[0]}/{progress_file.rpartition('/')[2]}"
        narrator = Narrator(str(task_vars.get("inventory_hostname", "")), name, begin, secret=bool(self._task.no_log))
        try:
            taken = task_vars.get("ansible_facts", {}).get("llm_lease") or {}
            run = lease.claimant(os.getppid())["run"]
            holds = f"{run} {taken['path']}" if taken.get("run") == run else ""
            text = self._wait(results_file, progress_file, str(started["ansible_job_id"]), narrator, holds)
        finally:
            leftovers = [results_file, str(lease_path(progress_file))] + ([] if own else [progress_file])
            # The module's folder holds its arguments, secrets among them. The job's wrapper removes it seconds later, or never.
            leftovers.append(place)
            self._shell_quietly("rm -rf " + " ".join(shlex.quote(path) for path in leftovers))
        found = self._parsed(name, text)
        if isinstance(started.get("ansible_facts"), dict):
            # The interpreter that was discovered at the start; the module's own result does not know it.
            found["ansible_facts"] = dict(started["ansible_facts"]) | dict(found.get("ansible_facts") or {})
        return found

    def _start(self, name: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        self._task.async_val = LONGEST
        try:
            started: dict[str, Any] = self._execute_module(name, arguments, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        return started

    def _wait(self, results_file: str, progress_file: str, job: str, narrator: Narrator, holds: str) -> str:
        run = os.getppid()
        local = self._connection.transport.rpartition(".")[2] == "local"
        pause = 0.3
        alive_at = time.monotonic()
        answered = alive_at
        dead = 0
        while True:
            time.sleep(pause)
            if os.getppid() != run:
                raise AnsibleActionFail(f"{narrator.name}: the run was killed, and nobody waits for this any more")
            # Short modules are not made long; a remote look costs more than a local one.
            pause = min(pause * 1.5, 1.0 if local else 4.0)
            now = time.monotonic()
            check_alive = dead > 0 or now - alive_at >= ALIVE_EVERY
            command = look_command(results_file, progress_file, job, check_alive=check_alive, holds=holds)
            try:
                answer = self._low_level_execute_command(command)
            except AnsibleConnectionFailure:
                if now - answered >= LOST:
                    raise
                continue
            answered = time.monotonic()
            look = read_look(str(answer["stdout"]), check_alive=check_alive)
            line = narrator.line(now, look.progress)
            if line:
                display.display(line)
            if look.result is not None:
                return look.result
            if check_alive:
                alive_at = now
                dead = 0 if look.alive else dead + 1
                # The result is written just before the last process goes: only looks that find neither, again, settle it.
                if dead >= 3:
                    raise AnsibleActionFail(f"{narrator.name}: its processes are gone and left no result. {KILLED}")

    def _parsed(self, name: str, text: str) -> dict[str, Any]:
        data = json.loads(text)
        problem = ended_badly(data)
        if problem:
            raise AnsibleActionFail(f"{name} {problem}. {KILLED}")
        parsed: Any = self._parse_returned_data({"rc": 0, "stdout": text, "stderr": ""}, "legacy")
        # ansible-core 2.20 wraps the result in an object of its own; 2.19 has the dict at once.
        if not isinstance(parsed, dict):
            parsed.remove_internal_keys()
            parsed = parsed.as_result_dict(for_round_trip=True)
        found: dict[str, Any] = {key: value for key, value in parsed.items() if not key.startswith("_ansible_")}
        found.pop("ansible_job_id", None)
        if isinstance(found.get("invocation"), dict) and isinstance(found["invocation"].get("module_args"), dict):
            found["invocation"]["module_args"].pop("progress_file", None)
        return found

    def _shell_quietly(self, command: str) -> None:
        try:
            self._low_level_execute_command(command)
        except AnsibleConnectionFailure:
            return
