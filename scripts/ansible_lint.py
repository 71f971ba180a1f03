#!/usr/bin/env python3
"""ansible-lint, with the syntax of all playbooks and roles checked in one run of ansible-playbook.

By itself it starts ansible-playbook for each of them, and once more for each one that another imports: 120 starts here, four
fifths of its time. What that one run refuses is left to ansible-lint's own way, which names file and line.

Usage: as ansible-lint.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible_compat.runtime import Runtime
from ansiblelint import runner
from ansiblelint.__main__ import main

ROLE = "- name: Role\n  hosts: localhost\n  tasks:\n    - ansible.builtin.import_role:\n        name: {}\n"
sound: set[Path] = set()
one_by_one, loads = runner.Runner._map_syntax_check_workers, Runtime.has_playbook


def all_at_once(self: Any, worker: Any, files: list[Any]) -> list[Any]:
    """Give what ansible-lint found of these files: nothing, when all of them are sound."""
    paths = [file.path for file in files if file.kind in ("playbook", "role")]
    roles = [file.path for file in files if file.kind == "role"]
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as plays:
        plays.write("---\n" + "".join(ROLE.format(role) for role in roles))
        plays.flush()
        command = ["ansible-playbook", "--syntax-check", plays.name, *(p for p in paths if p not in roles)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            found: list[Any] = one_by_one(self, worker, files)
            return found
    sound.update(path.resolve() for path in paths)
    return []


def is_sound(self: Any, playbook: str, *, basedir: Path | None = None) -> bool:
    """Whether a playbook loads."""
    return (basedir or Path()).joinpath(playbook).resolve() in sound or loads(self, playbook, basedir=basedir)


if __name__ == "__main__":
    runner.Runner._map_syntax_check_workers = all_at_once  # type: ignore[method-assign]
    Runtime.has_playbook = is_sound  # type: ignore[method-assign]
    sys.exit(main())
