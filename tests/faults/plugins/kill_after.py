"""Kills a run, with its whole process group, once so many of its tasks have ended. For tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: kill_after
type: aggregate
short_description: Counts the tasks that end, and kills the run after one of them
description: [For tests.]
options:
  file:
    description: File that gets action and name of each task that has ended, one a line.
    env: [{name: KILL_AFTER_FILE}]
    type: path
  tasks:
    description: After how many tasks; 0 is never.
    env: [{name: KILL_AFTER_TASKS}]
    type: int
    default: 0
"""


class CallbackModule(CallbackBase):
    """See DOCUMENTATION. A task that was skipped has done nothing, and does not count."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_after"
    CALLBACK_NEEDS_ENABLED = True

    ended = 0

    def _count(self, result: Any) -> None:
        self.ended += 1
        with Path(self.get_option("file")).open("a", encoding="utf-8") as file:
            file.write(f"{result.task.action} {result.task.get_name()}\n")
        if self.ended == self.get_option("tasks"):
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count it."""
        self._count(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002
        """Count it as well."""
        self._count(result)
