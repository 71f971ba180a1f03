"""The progress file, its reader, and the end of a module that nobody watches."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.llm import progress

MODULE_UTILS = Path(progress.__file__).parents[1]


def test_one_json_line_a_step(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "p.progress"
    teller = progress.Progress(file)
    teller.say("weights", "shard 1 of 2")
    teller.say("ready")
    first, second = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert (first["phase"], first["message"]) == ("weights", "shard 1 of 2")
    assert first["elapsed"] >= 0
    assert abs(first["at"] - time.time()) < 60
    assert second["message"] == ""
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_path_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    progress.Progress(None).say("weights", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_folder_does_not_stop_the_work(tmp_path: Path) -> None:
    teller = progress.Progress(tmp_path / "gone" / "p")
    (tmp_path / "gone").rmdir()
    teller.say("weights", "x")


def test_parse_last() -> None:
    assert progress.parse_last('{"phase": "weights", "message": "1 of 2", "at": 1}') == ("weights", "1 of 2")
    for text in ("", "{", "[]", "3", '{"phase": "x"}'):
        assert progress.parse_last(text) is None


SCRIPT = """
import sys, time, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.llm.progress import Progress
Progress(sys.argv[2], lease=0.4).say("work", "")
time.sleep(20)
"""


def start(tmp_path: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    file = tmp_path / "p"
    command = [sys.executable, "-c", SCRIPT, str(MODULE_UTILS), str(file)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 10
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return file, process


def test_ends_when_its_watcher_is_gone(tmp_path: Path) -> None:
    file, process = start(tmp_path)
    watched = progress.lease_path(file)
    try:
        for _ in range(5):
            watched.touch()
            time.sleep(0.15)
            assert process.poll() is None
        assert process.wait(timeout=5) == -15
    finally:
        process.kill()
    assert not file.exists()
    assert not watched.exists()


def test_runs_on_when_nobody_ever_watched(tmp_path: Path) -> None:
    _file, process = start(tmp_path)
    try:
        time.sleep(1.0)
        assert process.poll() is None
    finally:
        os.kill(process.pid, 9)
        process.wait()
