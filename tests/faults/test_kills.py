"""Runs that are killed after a task, with their whole process group; the next run has to end as if nothing had happened.

Docker, gateway, playbooks and files are real. The engine is a stub (tests/stub/engine.py), for which a hundred boots cost minutes,
and in one test the real one.
Killed after a task that ran nothing on the host is killed after the one before it, so these are not repeated.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.demo import CHECKOUT
from tests.faults.stub.host import RealHost, StubHost, differences

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_SPEC = importlib.util.spec_from_file_location("llm_progress", CHECKOUT / "callback_plugins" / "llm_progress.py")
assert _SPEC and _SPEC.loader
progress = importlib.util.module_from_spec(_SPEC)
sys.modules["llm_progress"] = progress
_SPEC.loader.exec_module(progress)

OTHER = {"args": {"max-model-len": 512}}
Point = tuple[int, str]


@dataclass
class Clean:
    """What a run leaves that nobody disturbs. points: (k, name) of its tasks that ran something on the host."""

    changes: dict[str, Any] | None
    state: dict[str, Any]
    points: list[Point]

    def point(self, name: str) -> Point:
        """The last task of that name."""
        return [p for p in self.points if p[1].rpartition(" : ")[2] == name][-1]


def clean(host: StubHost, changes: dict[str, Any] | None = None) -> Clean:
    """Such a run."""
    host.run("site.yml", changes=changes).passed()
    ended = [line.split(" ", 1) for line in host.ended.read_text(encoding="utf-8").splitlines()]
    points = [(k, name) for k, (action, name) in enumerate(ended, 1) if progress.runs_module(action)]
    return Clean(changes, host.state(), points)


def killed_and_repeated(host: StubHost, point: Point, wanted: Clean) -> None:
    """Kill a run at a point, run again, compare."""
    k, name = point
    killed = host.run("site.yml", changes=wanted.changes, kill_after=k)
    assert killed.rc == -signal.SIGKILL, killed.stdout[-3000:]
    host.run("site.yml", changes=wanted.changes).passed()
    found = differences(wanted.state, host.state())
    assert found == {}, f"{sorted(found)} after a kill at task {k}, {name}"
    assert host.status() == 200, f"no answer after a kill at task {k}, {name}"


def failed(points: list[Point], kill: Callable[[Point], None]) -> dict[Point, str]:
    """Kill at every one of the points. Returns what failed, and how: one failure does not hide the next."""
    found = {}
    for n, point in enumerate(points, 1):
        start = time.monotonic()
        try:
            kill(point)
        except AssertionError as error:
            found[point] = str(error)
        print(
            f"{n}/{len(points)} task {point[0]}, {point[1]}: {time.monotonic() - start:.0f} s {found.get(point, '')}",
            flush=True,
        )
    return found


@pytest.fixture(scope="module")
def first(host: StubHost) -> Clean:
    """A first deployment."""
    host.reset()
    return clean(host)


class Upgrades:
    """There and back again, so that where one ends is where the next begins."""

    def __init__(self, host: StubHost) -> None:
        self.host = host
        self._begin()
        self.ways = [clean(host, OTHER), clean(host)]

    def _begin(self) -> None:
        self.host.reset()
        clean(self.host)

    def kill(self, point: Point) -> None:
        """Kill the next one at a point; after a failure the next one begins at the beginning."""
        try:
            killed_and_repeated(self.host, point, self.ways[0])
        except AssertionError:
            self._begin()
            self.ways.sort(key=lambda way: way.changes is None)
            raise
        self.ways.reverse()


@pytest.fixture(scope="module")
def upgrades(host: StubHost) -> Upgrades:
    """Both ways were gone before."""
    return Upgrades(host)


@pytest.mark.fault(21, "kills a first deployment after single tasks (engine: stub)")
@pytest.mark.parametrize("name", ["Start the container", "Make the release current"])
def test_the_next_run_ends_as_a_clean_first_one(host: StubHost, first: Clean, name: str) -> None:
    host.reset()
    killed_and_repeated(host, first.point(name), first)
    assert host.run("site.yml").passed().changed == 0


@pytest.mark.fault(21, "kills a first deployment after every task that runs something on the host (engine: stub)")
def test_a_first_deployment_may_be_killed_anywhere(
    host: StubHost, first: Clean, record_property: Callable[[str, object], None]
) -> None:
    def kill(point: Point) -> None:
        host.reset()
        killed_and_repeated(host, point, first)

    record_property("kills", len(first.points))
    assert failed(first.points, kill) == {}


@pytest.mark.fault(21, "kills an upgrade after single tasks (engine: stub)")
@pytest.mark.parametrize("name", ["Start the container", "Serve the declared ports", "Make the release current"])
def test_the_next_run_ends_as_a_clean_upgrade(upgrades: Upgrades, name: str) -> None:
    upgrades.kill(upgrades.ways[0].point(name))


@pytest.mark.fault(21, "kills an upgrade after every task that runs something on the host (engine: stub)")
def test_an_upgrade_may_be_killed_anywhere(upgrades: Upgrades, record_property: Callable[[str, object], None]) -> None:
    points = upgrades.ways[0].points
    record_property("kills", len(points))
    assert failed(points, upgrades.kill) == {}


REAL = (
    "Let it finish, and stop it",
    "Start the container",
    "Wait for the engine",
    "Ask the engine",
    "Make the release current",
)
"""Nothing serves; the new one boots; it is ready; it has passed, and nobody is led to it; it is current, and no more than that."""


@pytest.mark.fault(21, "kills an upgrade of the real engine, which stops what serves first, after five tasks")
def test_an_upgrade_of_the_real_engine_may_be_killed(
    real_host: RealHost, record_property: Callable[[str, object], None]
) -> None:
    upgrades = Upgrades(real_host)

    def kill(point: Point) -> None:
        # Where one way has run a task more than the other, the same one has another number.
        upgrades.kill(upgrades.ways[0].point(point[1]))

    record_property("kills", len(REAL))
    assert failed([(n, name) for n, name in enumerate(REAL, 1)], kill) == {}
