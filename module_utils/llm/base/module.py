"""What work on a host needs of the Ansible module that asked for it. Ansible's AnsibleModule has it, and a test can have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class RunCommand(Protocol):
    """Runs a program without a shell: (exit status, output, errors). AnsibleModule.run_command is one, and says the options."""

    def __call__(self, args: Sequence[str], **options: Any) -> tuple[int, str, str]:
        """args: the program and its arguments."""


class Module(Protocol):
    """One call of a module: what it was asked for, and ways to ask the host. How it ends is the module's own business."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Options of the module, checked, with their defaults."""

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""

    @property
    def run_command(self) -> RunCommand:
        """Runs a program."""

    def get_bin_path(self, arg: str, required: bool = False) -> str | None:
        """Path of a program, None when it is not installed; the module fails there when it is required."""

    def warn(self, warning: str) -> None:
        """Show a warning at the end of the task."""
