"""What work on a host needs of the Ansible module that asked for it. Ansible's AnsibleModule has it, and a test can have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class RunCommand(Protocol):
    """Runs a program without a shell: (exit status, output, errors). AnsibleModule.run_command is one."""

    def __call__(self, args: Sequence[str]) -> tuple[int, str, str]:
        """args: the program and its arguments."""
