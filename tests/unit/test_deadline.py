"""The limit around a check, calls at once, and that a module ends soon after its verdict whatever a server does."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm import smoke
from ansible.module_utils.llm.deadline import DeadlineExceeded, at_once, deadline

ROOT = Path(__file__).parents[2]
HARD = 90  # seconds after which a module counts as one that does not end: it declares 6 s, and a busy machine starts it late
SCRIPT = """
import importlib, json, sys
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

    with pytest.raises(DeadlineExceeded), deadline(0.05):
        losing()
    assert lost == 1


def test_a_limit_is_over_after_its_block() -> None:
    with deadline(0.05):
        pass
    threading.Event().wait(0.2)


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


def ended(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a module of its own process gave; subprocess.TimeoutExpired when that did not end."""
    command = [sys.executable, "-c", SCRIPT, str(ROOT), name]
    done = subprocess.run(
        command, input=json.dumps(arguments), capture_output=True, text=True, timeout=HARD, check=False
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("asked", [(), ("together", "burst"), ("anthropic", "anthropic_streaming")])
def test_a_smoke_test_ends_though_the_server_never_stops_to_send(stub_engine: Start, asked: tuple[str, ...]) -> None:
    others = {a.id: "not of interest" for a in smoke.TABLE if asked and a.id not in asked}
    arguments = {**stub_engine("trickles"), "depth": "full", "timeout": 1, "unable": others, "max_tokens": 100}
    result = ended("llm_smoke", arguments)
    checks = result["verdict"]["services"]["micro"]["checks"]
    assert result["failed"] and {c["id"] for c in checks} >= set(asked or ("answer", "streaming", "together"))
    late = [c["id"] for c in checks if c["evidence"].startswith("no complete answer within")]
    assert late == list(asked or ("answer", "streaming"))


def test_a_warm_up_ends_though_the_server_never_stops_to_send(stub_engine: Start) -> None:
    arguments = {**stub_engine("trickles_later"), "prompt_tokens": [50], "concurrency": [4], "timeout": 1}
    result = ended("llm_warmup", {**arguments, "again": True})
    assert [row["status"] for row in result["sizes"]] == ["ok"]
    (row,) = result["concurrency"]
    assert row["status"] == "failed" and "4 prompts at once: no complete answer within 1 s" in row["reason"]
