"""The limit around a check, calls at once, and that a module ends soon after its verdict whatever a server does."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.base.deadline import DeadlineExceeded, at_once, deadline
from ansible.module_utils.llm.declare.checks import CHECKS

ROOT = Path(__file__).parents[3]
HARD = 300  # seconds after which a module counts as one that does not end: it declares 8 s, and a busy machine starts it late
SCRIPT = """
import importlib, json, sys
import openai.resources  # slow to load, and else loaded within a limit
import ansible.module_utils
from ansible.module_utils.testing import patch_module_args
root, name = sys.argv[1:]
ansible.module_utils.__path__.append(root + "/module_utils")
sys.path.insert(0, root + "/library")
with patch_module_args(json.load(sys.stdin)):
    importlib.import_module(name).main()
"""
Start = Callable[..., dict[str, Any]]


def test_a_limit_that_was_lost_is_raised_again() -> None:
    lost = 0

    def losing() -> None:
        nonlocal lost
        try:
            threading.Event().wait(HARD)
        except DeadlineExceeded:  # as Python does with what a finalizer raises
            lost += 1
        threading.Event().wait(HARD)

    with pytest.raises(DeadlineExceeded), deadline(0.5):  # long enough to be in there when it comes
        losing()
    assert lost == 1


def test_a_limit_is_over_after_its_block() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(HARD):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGALRM) == before


def test_calls_at_once_are_at_work_together_and_errors_come_back() -> None:
    meeting = threading.Barrier(3)

    def call(number: int) -> int:
        meeting.wait(HARD)
        if number == 1:
            raise ValueError("one")
        return number * 10

    found = dict(at_once(3, call))
    assert (found[0], found[2]) == (0, 20) and isinstance(found[1], ValueError)


def test_the_first_to_end_is_told_first_and_the_others_can_be_left() -> None:
    for_ever = threading.Event()
    left = at_once(3, lambda number: number if number == 2 else for_ever.wait(HARD))
    assert next(left) == (2, 2)
    with pytest.raises(DeadlineExceeded), deadline(0.05):
        next(left)
    for_ever.set()


TRICKLES: dict[str, tuple[str, ...]] = {
    "the first questions": (),
    "many at once": ("together", "burst"),
    "not through the SDK": ("anthropic", "anthropic_streaming"),
}
WARM_UP = "warm-up"


@pytest.fixture(scope="module")
def started(stub_engines: Start) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Modules at work, each a process of its own: each waits most of the time, so they do it together."""
    wanted = {}
    for what, asked in TRICKLES.items():
        others = {a.id: "not of interest" for a in CHECKS if asked and a.id not in asked}
        given = stub_engines("trickles", timeout=2, unable=others, max_tokens=100)
        wanted[what] = ("llm_smoke", {**given, "depth": "full"})
    given = stub_engines("trickles_later", timeout=2, prompt_tokens=[50], concurrency=[4])
    wanted[WARM_UP] = ("llm_warmup", {**given, "again": True})
    pipe = subprocess.PIPE
    with ExitStack() as processes:
        runs = {}
        for what, (name, arguments) in wanted.items():
            command = [sys.executable, "-c", SCRIPT, str(ROOT), name]
            runs[what] = run = processes.enter_context(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            )
            processes.callback(run.kill)
            assert run.stdin
            run.stdin.write(json.dumps(arguments))
            run.stdin.close()
            run.stdin = None
        yield runs


def result(run: subprocess.Popen[str]) -> dict[str, Any]:
    """What a module gave; subprocess.TimeoutExpired when it does not end."""
    out, err = run.communicate(timeout=HARD)
    assert out, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("what", TRICKLES)
def test_a_smoke_test_ends_though_the_server_never_stops_to_send(
    started: dict[str, subprocess.Popen[str]], what: str
) -> None:
    asked, found = TRICKLES[what], result(started[what])
    checks = found["verdict"]["services"]["micro"]["checks"]
    assert found["failed"] and {c["id"] for c in checks} >= set(asked or ("answer", "streaming", "together"))
    late = [c["id"] for c in checks if c["evidence"].startswith("no complete answer within")]
    assert late == list(asked or ("answer", "streaming"))


def test_a_warm_up_ends_though_the_server_never_stops_to_send(started: dict[str, subprocess.Popen[str]]) -> None:
    found = result(started[WARM_UP])
    assert [row["status"] for row in found["sizes"]] == ["ok"]
    (row,) = found["concurrency"]
    assert row["status"] == "failed" and "4 prompts at once: no complete answer within 2 s" in row["reason"]
