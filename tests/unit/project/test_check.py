"""`make check` says what begins, what is at work and what has ended, and shows the output of what fails, and only that."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "check.sh"
MAKEFILE = """
.RECIPEPREFIX = >
good:
> @echo noise; echo "7 passed"
bad:
> @echo "what is wrong"; exit 1
# Each waits for the other: they end only when they are at work together.
left:
> @mkfifo pipe; echo met > pipe
right:
> @until [ -p pipe ]; do sleep 0.02; done; cat pipe
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    return tmp_path


def check(project: Path, *parts: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of output. Nothing stays in the folder for temporary files."""
    environment = {**os.environ, "TMPDIR": str(project / "tmp")}
    command = [str(project / "scripts" / "check.sh"), *parts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == "" and list((project / "tmp").iterdir()) == []
    return done.returncode, done.stdout.splitlines()


def test_parts_run_together_and_say_so(project: Path) -> None:
    code, lines = check(project, "left", "right", "good")
    assert code == 0 and lines[0] == "check: begins left right good"
    ends = [line.split()[1] for line in lines if " passed in " in line and "all passed" not in line]
    assert sorted(ends) == ["good", "left", "right"] and lines[-1].startswith("check: all passed in ")
    assert any(line.endswith(" s  7 passed") for line in lines) and "noise" not in "\n".join(lines)


def test_what_fails_is_shown_and_fails_it(project: Path) -> None:
    code, lines = check(project, "bad", "good")
    assert code == 1 and "bad: what is wrong" in lines and lines[-1].endswith(" s: bad (see above)")
    assert lines[lines.index("bad: what is wrong") - 1].startswith("check: bad FAILED after ")
    assert any(line.startswith("check: good") and " passed in " in line for line in lines)
