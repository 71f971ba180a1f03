"""A run that is killed while it writes a file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.llm.base import files

SIZE = 256 * 2**20  # large enough to be met in the middle
WRITER = """
import sys, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from pathlib import Path
from ansible.module_utils.llm.base import files
files.write(Path(sys.argv[2]), "n" * int(sys.argv[3]))
"""


@pytest.mark.fault(22, "kills a writer when a part of a large file is on the disk")
def test_the_old_content_stays_whole_and_the_next_writer_clears_up(tmp_path: Path) -> None:
    target = tmp_path / "compose.yml"
    files.write(target, "old")
    command = [sys.executable, "-c", WRITER, str(Path(files.__file__).parents[2]), str(target), str(SIZE)]
    writer = subprocess.Popen(command)
    end = time.monotonic() + 60
    while not [p for p in tmp_path.glob(".compose.yml.*") if p.stat().st_size]:
        assert writer.poll() is None and time.monotonic() < end
    writer.kill()
    writer.wait()
    (half,) = tmp_path.glob(".compose.yml.*")
    assert half.stat().st_size < SIZE, "it was not met in the middle"
    assert target.read_text() == "old"
    being_written = tmp_path / ".compose.yml.0123abcd.json"  # another file's
    being_written.write_text("")
    assert files.write(target, "new")
    assert (target.read_text(), sorted(p.name for p in tmp_path.iterdir())) == (
        "new",
        sorted([target.name, being_written.name]),
    )
