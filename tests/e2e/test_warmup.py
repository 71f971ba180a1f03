"""Warm-up of a real engine: what is declared is sent, to an engine that its own counters say is cold, and to no other."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import pytest
from ansible.module_utils.llm.engine import warmup
from ansible.module_utils.llm.engine.metrics import parse_metrics

from tests.e2e.demo import Machine, Playbook, Run, declare, request

pytestmark = pytest.mark.e2e

SIZES, CONCURRENCY, SHARED = [50, 300, 1000], [2, 4], 400
BOOT = 600  # seconds in which the engine has to be ready; no test measures time
# Prompts of a run that sends everything, by the size that is aimed at; two more tell how many tokens a word has.
SENT = {50: 2 + 2 * sum(CONCURRENCY), 300: 2, 1000: 2, SHARED: 1}
EVERYTHING = sum(SENT.values()) + 1 + 2


def address(machine: Machine) -> str:
    return f"http://{machine.engine().attrs['NetworkSettings']['Networks']['llm']['IPAddress']}:8000"


def computed(machine: Machine) -> tuple[int, Mapping[float, float]]:
    """What the engine counts: finished requests, and by upper edge those of whose prompts so many tokens were computed."""
    samples = parse_metrics(request(f"{address(machine)}/metrics")[1])
    edges = {float(s.labels["le"].replace("+Inf", "inf")): s.value for s in samples if s.name == warmup.HISTOGRAM}
    below, counts = 0.0, {}
    for edge in sorted(edges):
        counts[edge], below = edges[edge] - below, edges[edge]
    return int(below), counts


def warmed(playbook: Playbook, *more: str) -> Run:
    declared = {"prompt_tokens": SIZES, "concurrency": CONCURRENCY, "shared_prefix": SHARED}
    return playbook("playbooks/warmup.yml", *declare(warmup=declared), *more).passed()


def is_warm(run: Run) -> bool:
    """What a run says: everything was sent, with times; or nothing was."""
    parts = [f"{size} tokens: warm" for size in SIZES]
    if all(part in run.text for part in parts):
        assert "at once" not in run.text
        return True
    times = r"\d+ / \d+ ms"
    for what in (*(f"{size} tokens" for size in SIZES), *(f"{count} at once" for count in CONCURRENCY)):
        assert re.search(rf"\b{what}: {times}", run.text), run.stdout[-3000:]
    assert re.search(rf"{SHARED} tokens, then the same beginning: {times}", run.text), run.stdout[-3000:]
    return False


def test_what_is_declared_is_sent_and_a_warm_engine_is_sent_nothing(playbook: Playbook, machine: Machine) -> None:
    before, _ = computed(machine)
    assert not is_warm(warmed(playbook, "-e", "llm_again=true"))
    sent, counts = computed(machine)
    # Nobody else asks; only the supervisor may have, once.
    assert sent - before in (EVERYTHING, EVERYTHING + 1)
    assert is_warm(warmed(playbook))
    after, again = computed(machine)
    assert after - sent <= 1 and {edge: n for edge, n in again.items() if edge > 30} == {
        edge: n for edge, n in counts.items() if edge > 30
    }


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
def test_an_engine_that_was_restarted_is_cold_and_is_warmed_once(playbook: Playbook, machine: Machine) -> None:
    machine.engine().restart(timeout=60)
    end = time.monotonic() + BOOT
    while not healthy(machine):
        assert time.monotonic() < end, machine.engine().logs(tail=30).decode()
        time.sleep(1)
    assert computed(machine)[0] <= 1, "the engine has been asked before"
    assert not is_warm(warmed(playbook))
    sent, counts = computed(machine)
    assert EVERYTHING <= sent <= EVERYTHING + 1
    assert is_warm(warmed(playbook)) and computed(machine)[0] <= sent + 1
    print(sent, {edge: n for edge, n in counts.items() if n})


def healthy(machine: Machine) -> bool:
    try:
        return request(f"{address(machine)}/health")[0] == 200
    except OSError:
        return False
