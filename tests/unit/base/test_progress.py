"""The progress file, its reader, and the end of a module that nobody watches."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.llm.base import progress

MODULE_UTILS = Path(progress.__file__).parents[2]


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
import pathlib, sys, time, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from types import SimpleNamespace
from ansible.module_utils.llm.base import progress
def sleep(seconds):
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.01)
    print(seconds, flush=True)
    sys.stdin.readline()
progress.time = SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic)
progress.Progress(sys.argv[2]).say("work", "")
time.sleep(600)
"""
"""Before it looks whether it is watched it says how long it would wait, and waits for a line instead."""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The progress file of a module that is at work, and the module."""
    file = tmp_path / "p"
    command = [sys.executable, "-c", SCRIPT, str(MODULE_UTILS), str(file)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, start_new_session=True, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "1.0\n"
        yield file, process
        process.kill()


def looks(process: subprocess.Popen[str]) -> bool:
    """Let it look once, and tell whether it is still at work."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline() == "1.0\n"


def watched_ago(file: Path, seconds: float) -> Path:
    """Touch what the watcher touches, as if that was so long ago."""
    watched = progress.lease_path(file)
    watched.touch()
    then = time.time() - seconds
    os.utime(watched, (then, then))
    return watched


def test_ends_when_its_watcher_is_gone(started: tuple[Path, subprocess.Popen[str]]) -> None:
    file, process = started
    watched = watched_ago(file, progress.LEASE / 2)
    assert looks(process) and looks(process) and file.exists()
    watched_ago(file, progress.LEASE + 1)
    assert not looks(process)
    assert process.wait(60) == -15
    assert not file.exists()
    assert not watched.exists()


def test_runs_on_when_nobody_ever_watched(started: tuple[Path, subprocess.Popen[str]]) -> None:
    assert all(looks(started[1]) for _ in range(3))
