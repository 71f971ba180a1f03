"""The real engine of the demo, hung, killed and busy under the supervisor: what becomes of it, and of what clients get."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.demo import ENDPOINT, MODEL, QUESTION, ROOT, SERVICE, WORD, Machine, Playbook, declare, request

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("restored")]

EVENTS = ROOT / "supervisor/events.jsonl"
_TOKENS = re.compile(r"^vllm:(?:prompt|generation)_tokens_total\{.*\} (\S+)$", re.MULTILINE)
_UNKNOWN = re.compile(rf'^llm_supervisor_unknown_seconds\{{service="{SERVICE}"\}} (\S+)$', re.MULTILINE)
FOUND = {"wedged", "frozen", "dead"}
SLOWEST = 600.0
"""Seconds after which a test gives up; how long it took is in the table of faults."""


class Supervised:
    """What the supervisor says since the test began, and the engine's processes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.begin = EVENTS.stat().st_size
        self.engine = machine.engine()

    def events(self, event: str) -> list[dict[str, Any]]:
        """Events of one kind about the service."""
        with EVENTS.open("rb") as stream:
            stream.seek(self.begin)
            found = [json.loads(line) for line in stream.read().splitlines()]
        return [e for e in found if (e["event"], e["service"]) == (event, SERVICE)]

    def process(self, name: str) -> int:
        """Process number of a process of the engine, by the beginning of its name."""
        pids = [int(row[0]) for row in self.engine.top(ps_args="-eo pid")["Processes"]]
        (found,) = [p for p in pids if Path(f"/proc/{p}/comm").read_text().startswith(name)]
        return found

    def recovered(self) -> None:
        """Wait for a right answer at the gateway."""
        await_(lambda: answers(self.machine), "the service does not answer again")

    def recovery(self) -> dict[str, Any]:
        """The one recovery, when it is done."""
        await_(lambda: self.events("recovery"), "the supervisor does nothing")
        (found,) = self.events("recovery")
        assert not found["problem"]
        return found


def await_(condition: Callable[[], object], otherwise: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + SLOWEST
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.2)


def answers(machine: Machine) -> bool:
    """Whether the service gives the right answer within some seconds."""
    client = machine.client().with_options(timeout=20)
    with suppress(openai.APIError):
        asked: Any = [{"role": "user", "content": QUESTION}]
        completion = client.chat.completions.create(model=MODEL, messages=asked, temperature=0, max_tokens=16)
        return WORD in (completion.choices[0].message.content or "")
    return False


class Stream:
    """A client that reads one long answer, which never ends by itself within a test's time."""

    def __init__(self, machine: Machine) -> None:
        self.read, self.error = 0, ""
        self.client = machine.client().with_options(timeout=SLOWEST)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        await_(lambda: self.read > 3 or not self.thread.is_alive(), "the stream does not begin")

    def _run(self) -> None:
        try:
            stream = self.client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=1900,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            for _ in stream:
                self.read += 1
        except Exception as error:  # noqa: BLE001 - the client's own, and those of what is below it
            self.error = type(error).__name__

    def ended(self) -> None:
        """Check that it ends, and not as if all were well."""
        self.thread.join(SLOWEST)
        assert not self.thread.is_alive() and self.error, f"ended well after {self.read} pieces"


def forget(supervisor: Any) -> None:
    """Give the supervisor its budget back, which it keeps over a restart of its own: three faults an hour are too few here."""
    state = ROOT / "supervisor/state.json"
    kept = json.loads(state.read_text(encoding="utf-8"))
    if not any(service["past"] for service in kept.values()):
        return
    supervisor.stop()
    state.write_text(json.dumps({name: {**service, "past": []} for name, service in kept.items()}), encoding="utf-8")
    supervisor.start()


@pytest.fixture
def supervised(machine: Machine) -> Iterator[Supervised]:
    supervisor = machine.docker.containers.get("llm-supervisor")
    assert supervisor.status == "running"
    forget(supervisor)
    found = Supervised(machine)
    yield found
    # Whatever was stopped goes on, or the engine could not be stopped in time.
    with suppress(OSError, ValueError):
        os.kill(found.process("VLLM::EngineCor"), signal.SIGCONT)


@contextmanager
def timed(supervised: Supervised, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """From the fault to the first right answer, and to when the supervisor knew, for the table."""
    begin = time.time()
    yield
    record_property("recovery_seconds", time.time() - begin)
    # The engine core that is gone is a verdict, the server that Docker starts anew is not.
    known = [e for e in supervised.events("verdict") if e["verdict"] in FOUND] + supervised.events("restarted")
    found = [datetime.datetime.fromisoformat(e["at"].replace("Z", "+00:00")).timestamp() - begin for e in known]
    # Events are of whole seconds.
    record_property("found_seconds", max(0.0, min(found)))


def hang(supervised: Supervised, record_property: Callable[[str, object], None]) -> None:
    """Freeze the engine core with a request in flight; see that nothing else notices, and that it comes back as another."""
    stream = Stream(supervised.machine)
    with timed(supervised, record_property):
        os.kill(supervised.process("VLLM::EngineCor"), signal.SIGSTOP)
        assert request(ENDPOINT.replace("/v1", "/health"))[0] == 200, "its health says that all is well"
        recovery = supervised.recovery()
        stream.ended()
        supervised.recovered()
    assert (recovery["action"], recovery["verdict"]) == ("recreate", "wedged")
    engine = supervised.machine.engine()
    assert engine.id != supervised.engine.id and engine.name == supervised.engine.name
    assert engine.attrs["Image"] == supervised.engine.attrs["Image"]
    kept = {path.name: path.read_text(encoding="utf-8") for path in Path(recovery["diagnostics"]).iterdir()}
    assert set(kept) >= {"cause.json", "inspect.json", "log.txt", "metrics.txt"}
    assert "no token for" in json.loads(kept["cause.json"])["cause"]
    assert supervised.machine.key not in "".join(kept.values())


@pytest.mark.fault(2, "stopped under a stream, with 20 s declared")
def test_an_engine_core_that_hangs_is_recreated_after_the_declared_time(
    playbook: Playbook, supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    playbook("site.yml", *declare(liveness={"progress_timeout": 20})).passed()
    hang(supervised, record_property)
    assert playbook("site.yml", *declare(liveness={"progress_timeout": 20})).passed().changed == 0


@pytest.mark.slow
@pytest.mark.fault(2, "stopped under a stream, with nothing declared")
def test_an_engine_core_that_hangs_is_recreated(
    supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    hang(supervised, record_property)


@pytest.mark.slow
@pytest.mark.fault(3, "the container is paused")
def test_a_frozen_server_is_restarted(supervised: Supervised, record_property: Callable[[str, object], None]) -> None:
    with timed(supervised, record_property):
        supervised.engine.pause()
        recovery = supervised.recovery()
        supervised.recovered()
    assert (recovery["action"], recovery["verdict"]) == ("restart", "frozen")
    assert supervised.machine.engine().id == supervised.engine.id


@pytest.mark.slow
@pytest.mark.fault(3, "the API server alone is stopped")
def test_a_server_that_is_stopped_is_restarted(
    supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    with timed(supervised, record_property):
        os.kill(supervised.process("vllm"), signal.SIGSTOP)
        recovery = supervised.recovery()
        supervised.recovered()
    assert (recovery["action"], recovery["verdict"]) == ("restart", "frozen")


@pytest.mark.slow
@pytest.mark.fault(1, "killed under a stream")
def test_an_engine_core_that_is_killed_costs_one_restart(
    supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    stream = Stream(supervised.machine)
    with timed(supervised, record_property):
        os.kill(supervised.process("VLLM::EngineCor"), signal.SIGKILL)
        stream.ended()
        supervised.recovered()
    # The server ends with 0, which Docker takes for a success.
    recovery = supervised.recovery()
    assert (recovery["action"], recovery["verdict"]) == ("restart", "dead")
    assert supervised.machine.engine().id == supervised.engine.id


@pytest.mark.slow
@pytest.mark.fault(4, "killed under a stream")
def test_a_server_that_is_killed_costs_one_restart(
    supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    stream = Stream(supervised.machine)
    with timed(supervised, record_property):
        os.kill(supervised.process("vllm"), signal.SIGKILL)
        stream.ended()
        supervised.recovered()
    await_(lambda: supervised.events("restarted"), "the supervisor does not notice")
    (restarted,) = supervised.events("restarted")
    assert restarted["by"] == "Docker's restart policy" and not supervised.events("recovery")
    assert supervised.machine.engine().id == supervised.engine.id


@pytest.mark.slow  # Molecule's engine_supervisor has it with a stub
def test_what_an_operator_stops_stays_stopped(playbook: Playbook, supervised: Supervised) -> None:
    playbook("playbooks/stop.yml").passed()

    def seen() -> bool:
        return any(e["verdict"] == "stopped" for e in supervised.events("verdict"))

    await_(seen, "the supervisor does not see it")
    looks = ROOT / "supervisor/metrics.prom"
    for _ in range(3):
        before = looks.stat().st_ino
        await_(lambda before=before: looks.stat().st_ino != before, "the supervisor has ended")  # type: ignore[misc]
    assert supervised.machine.engine().status == "exited" and not supervised.events("recovery")


class Watched:
    """What the engine's metrics and the supervisor's say, looked at once a second."""

    def __init__(self, machine: Machine) -> None:
        address = machine.engine().attrs["NetworkSettings"]["Networks"]["llm"]["IPAddress"]
        self.metrics, self.supervisor = f"http://{address}:8000/metrics", ROOT / "supervisor/metrics.prom"
        self.progress: tuple[float, ...] = ()
        self.moved = time.monotonic()
        self.stillest = self.unknown = 0.0

    def look(self) -> None:
        """Metrics that do not come count as no progress."""
        with suppress(OSError):
            _, text = request(self.metrics)
            progress = tuple(sorted(float(n) for n in _TOKENS.findall(text)))
            if progress != self.progress:
                self.stillest = max(self.stillest, time.monotonic() - self.moved)
                self.progress, self.moved = progress, time.monotonic()
        found = _UNKNOWN.search(self.supervisor.read_text(encoding="utf-8"))
        self.unknown = max(self.unknown, float(found[1]) if found else 0)


@pytest.mark.slow
@pytest.mark.fault(5, "16 clients at once, 5 minutes or as long as `--saturated` says")
def test_an_engine_that_is_saturated_is_let_be(
    supervised: Supervised, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    begin, seconds = time.monotonic(), pytestconfig.getoption("saturated")
    over, watched = threading.Event(), Watched(supervised.machine)
    done: list[int | str] = []

    def ask(number: int) -> None:
        client = supervised.machine.client().with_options(timeout=2 * SLOWEST)
        while not over.is_set():
            try:
                completion = client.completions.create(
                    model=MODEL, prompt=f"{number} " * 200, max_tokens=100, extra_body={"ignore_eos": True}
                )
                done.append(completion.usage.completion_tokens if completion.usage else 0)
            except openai.APIError as error:
                done.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    while time.monotonic() < begin + seconds:
        watched.look()
        over.wait(1)
    over.set()
    record_property("busy_seconds", time.monotonic() - begin)
    for thread in threads:
        thread.join()
    record_property("answers", len(done))
    record_property("stillest_seconds", watched.stillest)
    record_property("unknown_seconds", watched.unknown)
    assert done and set(done) == {100}, "an answer was cut"
    assert not supervised.events("recovery") and not supervised.events("restarted")
    assert supervised.machine.engine().attrs["State"]["StartedAt"] == supervised.engine.attrs["State"]["StartedAt"]


@pytest.mark.slow
@pytest.mark.fault(6, "half an hour without a client, or as long as `--silent` says; then a question")
def test_a_silent_engine_is_let_be_and_answers_at_once(
    supervised: Supervised, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    threading.Event().wait(pytestconfig.getoption("silent"))  # that nobody asks is the fault
    record_property("silent_seconds", pytestconfig.getoption("silent"))
    assert answers(supervised.machine)
    assert not supervised.events("recovery") and not supervised.events("restarted")
    assert supervised.machine.engine().attrs["State"]["StartedAt"] == supervised.engine.attrs["State"]["StartedAt"]
