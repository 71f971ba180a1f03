"""What a demo that failed says at its end: what happened, what to try, and what belongs to a report of it."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible.context
import ansible.module_utils
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version

# As in action_plugins/llm_plan.py.
PROJECT = Path(__file__).resolve().parent.parent
_LIBRARY = str(PROJECT / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm import VERSION
from ansible.module_utils.llm.report import results

DOCUMENTATION = r"""
name: llm_what_next
type: aggregate
short_description: Says at the end of a demo that failed what to do about it
description:
  - After a run of C(playbooks/demo.yml) that failed on a host, prints what happened, commands to try, and what belongs to a report
    of it. After any other run it prints nothing.
  - Its name is the last of the callbacks', and so it has the last word; Ansible calls them in the order of their names.
"""

DEMO = "demo.yml"
WIDTH = 110
LINES, LONGEST = 8, 3
"""Lines of a message, and of one paragraph of it, at most; the whole of it is above."""
LOOPED = "One or more items failed"


@dataclass
class Seen:
    """What a run has shown so far."""

    stage: str = ""
    task: str = ""
    message: str = ""
    item: str = ""
    diagnostics: str = ""
    reported: bool = False
    host: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """Who runs the demo, and how: arguments of the command line, whether as root, from which folder."""

    options: Sequence[str]
    root: bool
    folder: Path


def excerpt(message: str) -> list[str]:
    """A message in at most LINES lines; its own paragraphs and list entries begin a new one."""
    form = textwrap.TextWrapper(
        WIDTH, subsequent_indent="  ", break_on_hyphens=False, max_lines=LONGEST, placeholder=" ..."
    )
    lines = [line for paragraph in message.strip().splitlines() for line in form.wrap(paragraph)]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "... (the whole message is above)"]


def block(name: str, lines: Sequence[str]) -> list[str]:
    """Lines with a name before the first, as playbooks/templates/demo.txt.j2 has them."""
    return ["", *(f"  {name if not number else '':<9} {line}" for number, line in enumerate(lines))]


def commands(entries: Sequence[tuple[str, str]]) -> list[str]:
    """Commands that can be pasted as they are, below comments that say what they do."""
    return [line for command, what in entries for line in (f"# {what}", command)]


def ending(seen: Seen, caller: Caller) -> list[str]:
    """The end of a demo that failed, as lines of text."""
    sudo = "" if caller.root else "sudo "

    def playbook(name: str) -> str:
        return " ".join([".venv/bin/ansible-playbook", *caller.options, name])

    again = ("make demo", "once more; what is done by now is kept")
    status = (playbook("playbooks/status.yml"), "what is declared, what runs, the last attempt")
    if seen.diagnostics:
        log = (f"{sudo}tail -n 40 {shlex.quote(seen.diagnostics + '/log.txt')}", "the end of the engine's log")
        tries = [status, log, again]
    elif seen.reported:
        tries = [status, (playbook("playbooks/smoke.yml"), "ask what is deployed, once more"), again]
    elif not seen.plan:
        tries = [(playbook("playbooks/validate.yml"), "judge what is declared; connects to no host"), again]
    else:
        tries = [status, ("df -h / /opt /var/lib", "whether there is room; README.md says how much it takes"), again]
    reports = _short(Path(seen.plan.get("report_dir") or PROJECT / "reports"), caller.folder)
    attached = [f"{reports}/report.html and verdict.json" if seen.reported else "the output of this run"]
    if not seen.reported and seen.plan:
        attached[0] += f", {reports}/plan.json"
    if seen.diagnostics:
        place = Path(seen.diagnostics)
        attached += [
            "diagnostics.tar.gz, which this makes (keys are blanked in it; see for yourself what else it holds):"
        ]
        attached += [
            f"  {sudo}tar -czf diagnostics.tar.gz -C {shlex.quote(str(place.parent))} {shlex.quote(place.name)}"
        ]
    # The message of a deployment names its step; the task that says so is none.
    happened = (
        seen.stage if seen.diagnostics else f'{seen.stage}, "{seen.task}"' if seen.task else "The run ended early"
    )
    lines = block("Failed", [f"{happened}:", *excerpt(seen.message or "it gave no reason")])
    lines += block("Try", commands(tries))
    return [*lines, *block("Report", ["If it stays, send:", *attached, *versions(seen)]), ""]


def versions(seen: Seen) -> list[str]:
    """What the run was made with, and on what."""
    python = ".".join(map(str, sys.version_info[:3]))
    known = [f"ansible-vllm {VERSION}", f"ansible-core {ansible_version}", f"Python {python}"]
    system, docker = seen.host.get("system") or {}, seen.host.get("docker") or {}
    known += [f"{system['id']} {system['version']}"] if system.get("id") else []
    known += [f"Docker {docker['version']}"] if docker.get("version") else []
    services = seen.plan.get("services") or {}
    known += [f"image {services[name]['image']}" for name in seen.plan.get("deployed") or () if name in services]
    return [", ".join(known), f"processor {results.processor(seen.host) or 'not read (see /proc/cpuinfo)'}"]


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def options(arguments: Mapping[str, Any], folder: Path) -> list[str]:
    """Arguments with which another playbook reaches the same hosts."""
    found = [f"-i {shlex.quote(_short(Path(source), folder))}" for source in arguments.get("inventory") or ()]
    return [*found, "--ask-become-pass"] if arguments.get("become_ask_pass") else found


class CallbackModule(CallbackBase):
    """Notes what a demo does, and has the last word when it failed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llm_what_next"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._demo = False
        self._stage = ""
        self._seen = Seen()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """See whether it is the demo."""
        self._demo = Path(playbook._file_name).resolve() == PROJECT / "playbooks" / DEMO

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Note the stage."""
        self._stage = play.get_name().strip()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note what is known of host, plan and reports."""
        if not self._demo:
            return
        action, found, seen = result.task.action, result.result, self._seen
        if action == "llm_host_facts":
            seen.host = found["ansible_facts"]["llm_host"]
        elif action == "llm_plan":
            seen.plan = found["plan"]
        elif action == "llm_report":
            seen.reported = True
        elif action == "llm_diagnose" and result.task.args.get("attempt"):
            seen.diagnostics = str(found.get("folder") or "")

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Note why an item failed: the task says only that one did."""
        self._seen.item = str(result.result.get("msg") or "")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note what failed last; what was rescued fails again, with more to say."""
        if ignore_errors:
            return
        message = str(result.result.get("msg") or "")
        seen = self._seen
        seen.stage, seen.task = self._stage, result.task.get_name().strip()
        seen.message = seen.item if seen.item and message.startswith(LOOPED) else message
        seen.item = ""

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note that a host was not reached."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Have the last word."""
        if self._demo and (stats.failures or stats.dark):
            folder = Path.cwd()
            caller = Caller(options(ansible.context.CLIARGS, folder), os.geteuid() == 0, folder)
            self._display.display("\n".join(ending(self._seen, caller)))
