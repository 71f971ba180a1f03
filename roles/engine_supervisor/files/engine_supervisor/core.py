"""What is seen of an engine, what that means, and what to do about it. Pure: no clock, no I/O.

Durations are measured with a clock that nobody sets (`Observation.at`, seconds). Only the budget of recoveries, which outlives this
program, goes by the calendar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ansible.module_utils.llm.engine.metrics import Sample

LOOKS = 3
"""Looks that must agree before anything is called hung, however long the declared time is over."""
GAP = 60.0
"""Seconds between two looks after which nothing is concluded from the time before: the machine slept, or this program did.

So it is with progress between two looks that were answered: what went on in between, nobody saw.
"""
CRASHES, CRASH_WINDOW = 3, 1800.0
"""So many restarts by Docker within so many seconds are a crash loop."""
BUDGET_WINDOW = 3600.0
BACKOFF = 60.0
"""Seconds to wait after a recovery before the next one; doubled with each recovery within the window."""
PROBE = "probe"
"""Stands among the engine cores for a short generation of ours that is not answered yet."""

OTHERS = ("Docker's restart policy", "somebody else")
"""Who starts an engine anew, but this program."""
ACTIONS = {"wedged": "recreate", "frozen": "restart", "dead": "restart", "not-ready": "recreate", "crash-loop": "stop"}
"""Verdict to recovery. Other verdicts are let be."""
GAVE_UP = "gave-up"
VERDICTS = ("busy", "idle", "starting", "stopped", "unknown", *ACTIONS, GAVE_UP)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is declared of a service (key `liveness`, and `boot_timeout`), in seconds. recover: False only reports."""

    progress_timeout: float
    freeze_timeout: float
    boot_timeout: float
    probe_every: float
    recover: bool


@dataclasses.dataclass(frozen=True)
class Work:
    """One engine core: requests running and waiting, and counters that grow with every step."""

    in_flight: float
    progress: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Observation:
    """One look at a container.

    status: Docker's. run: changes whenever the container starts. restarts: how often Docker's policy started it. scrape:
    answered, refused, timeout, failed. wakeups: grows whenever the API server gets the processor; None when it could not be
    read. gave_up: it ended by itself (or in a recovery that failed), and the policy starts it no more. left: this program stopped
    this run of it for good. refused: generations of ours in a row that failed. connected: clients that hold a connection to its
    server, which closes idle ones after 5 s.
    """

    at: float
    status: str
    run: str
    restarts: int = 0
    scrape: str = ""
    engines: Mapping[str, Work] = dataclasses.field(default_factory=dict)
    asleep: bool = False
    wakeups: int | None = None
    was_ready: bool = False
    gave_up: bool = False
    left: bool = False
    refused: int = 0
    connected: int = 0


@dataclasses.dataclass
class Memory:
    """What is remembered of one service between looks.

    moved: of each core its counters, since when they stand, and at how many answered looks they stood with work in flight.
    answered: when its metrics were read the last time. unstarted: looks at which it was made and not started. crashes: when
    Docker restarted it. ours: our recovery started it. suspect: looks in a row, but for those without an answer, at which it
    had nothing to do, and clients that wait.
    """

    run: str = ""
    restarts: int = 0
    since: float = 0.0
    last: float = 0.0
    ready: bool = False
    moved: dict[str, tuple[tuple[float, ...], float, int]] = dataclasses.field(default_factory=dict)
    answered: float = 0.0
    silent: tuple[int, float, int] | None = None
    unstarted: int = 0
    unknown_since: float | None = None
    active_at: float = 0.0
    crashes: list[float] = dataclasses.field(default_factory=list)
    ours: bool = False
    suspect: int = 0


def works(samples: Iterable[Sample]) -> tuple[dict[str, Work], bool]:
    """Engine cores by label, and whether the engine sleeps, from its metrics."""
    in_flight: dict[str, float] = {}
    counters: dict[str, dict[str, float]] = {}
    asleep = False
    for sample in samples:
        core = sample.labels.get("engine", "")
        if sample.name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            in_flight[core] = in_flight.get(core, 0.0) + sample.value
        elif sample.name in (
            "vllm:iteration_tokens_total_count",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ):
            found = counters.setdefault(core, {})
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
        elif sample.name == "vllm:engine_sleep_state" and sample.labels.get("sleep_state") == "awake":
            asleep = asleep or sample.value == 0
    return {c: Work(n, tuple(v for _, v in sorted(counters.get(c, {}).items()))) for c, n in in_flight.items()}, asleep


def with_probe(engines: Mapping[str, Work]) -> dict[str, Work]:
    """The cores, and a generation of ours that one of them works on.

    A core that hung before it saw the request goes on reporting none in flight: its last numbers are all that the API server has.
    """
    total = tuple(sum(work.progress) for work in engines.values())
    return {**engines, PROBE: Work(1, total)}


def judge(memory: Memory, look: Observation, rules: Rules) -> tuple[str, str, str]:
    """Verdict (one of VERDICTS), why, and who restarted the engine since the last look ("" nobody, or this program).

    Updates the memory.
    """
    restarted = ""
    if look.run != memory.run:
        # One that was made and did not start is no restart: whoever starts it will be one.
        if memory.run and not memory.ours and look.status != "created":
            by_docker = look.restarts > memory.restarts
            restarted = OTHERS[0] if by_docker else OTHERS[1]
            if by_docker:
                memory.crashes += [look.at] * (look.restarts - memory.restarts)
        memory.run, memory.since, memory.ours = look.run, look.at, False
        # Not at every look: Docker counts a restart before it begins.
        memory.restarts = look.restarts
        _forget(memory)
        memory.ready = False
        memory.active_at = look.at
    elif look.at - memory.last > GAP or look.at < memory.last:
        _forget(memory)
    memory.last = look.at
    memory.ready = memory.ready or look.was_ready
    memory.crashes = [at for at in memory.crashes if look.at - at <= CRASH_WINDOW]
    verdict, why = _judged(memory, look, rules)
    if verdict != "unknown":
        memory.suspect = memory.suspect + 1 if verdict == "idle" and look.connected else 0
        memory.unknown_since = None
    elif memory.unknown_since is None:
        memory.unknown_since = look.at
    return verdict, why, restarted


def probe_due(memory: Memory, look: Observation, rules: Rules, probed: float) -> bool:
    """Whether an idle engine is to be asked for a short generation; probed: when it was asked the last time.

    Long idleness is a reason, a generation that failed, and clients that wait for an engine that has nothing to do: a core that
    hung before their requests came knows nothing of them.
    """
    if not rules.probe_every or look.asleep:
        return False
    suspicious = memory.suspect >= LOOKS and look.at - probed >= rules.progress_timeout
    return bool(look.refused) or suspicious or look.at - max(probed, memory.active_at) >= rules.probe_every


def _forget(memory: Memory) -> None:
    memory.moved, memory.silent, memory.unstarted = {}, None, 0


def _judged(memory: Memory, look: Observation, rules: Rules) -> tuple[str, str]:
    if look.status not in ("running", "paused"):
        if look.left:
            return GAVE_UP, "this program stopped it, and nobody has started it since"
        if look.status == "created":
            memory.unstarted += 1
            if memory.unstarted < LOOKS:  # as whoever makes it leaves it for a moment
                return "starting", "made, and not started yet"
            return "dead", "it was made, and did not start"
        if not look.gave_up:
            return ("starting", "Docker restarts it") if look.status == "restarting" else ("stopped", look.status)
        if len(memory.crashes) >= CRASHES:
            return "crash-loop", f"{len(memory.crashes)} restarts within {CRASH_WINDOW / 60:.0f} minutes"
        return "dead", "it ended by itself, and Docker does not start it again"
    if look.status == "running" and look.scrape == "answered":
        if look.at - memory.answered > GAP:
            memory.moved = {}
        memory.ready, memory.silent, memory.answered = True, None, look.at
        return _progress(memory, look, rules)
    # A look without an answer says nothing of progress: what stood before it may stand still. What is paused makes none.
    if look.status == "paused":
        memory.moved = {}
    if not memory.ready and look.status == "running":
        up = look.at - memory.since
        if (
            up > 2 * rules.boot_timeout
        ):  # once is what a deployment gives it, and another load on the machine can slow it down
            return "not-ready", f"not ready {up:.0f} s after its start"
        return "starting", f"not ready yet (metrics: {look.scrape})"
    if look.status == "running" and look.scrape != "timeout":
        memory.silent = None
        return "unknown", f"metrics: {look.scrape}"
    return _silence(memory, look, rules)


def _progress(memory: Memory, look: Observation, rules: Rules) -> tuple[str, str]:
    """Each core by itself: work in flight and no step for the declared time is a core that hangs."""
    if look.asleep:
        memory.moved = {}
        return "idle", "asleep"
    stuck = ""
    before, memory.moved = memory.moved, {}
    for core, work in look.engines.items():
        progress, since, looks = before.get(core, ((), look.at, 0))
        if work.progress != progress or not work.in_flight:
            if work.progress != progress and progress:
                memory.active_at = look.at
            memory.moved[core] = (work.progress, look.at, 1 if work.in_flight else 0)
            continue
        memory.moved[core] = (progress, since, looks + 1)
        if looks + 1 >= LOOKS and look.at - since >= rules.progress_timeout:
            name = "short generation of the supervisor" if core == PROBE else f"engine core {core or '0'}"
            stuck = f"{name}: {work.in_flight:g} in flight and no token for {look.at - since:.0f} s"
    if stuck:
        return "wedged", stuck
    total = sum(work.in_flight for core, work in look.engines.items() if core != PROBE)
    if total:
        return "busy", f"{total:g} requests"
    if look.refused >= LOOKS:
        return "wedged", f"{look.refused} short generations in a row failed inside the engine"
    return "idle", "nothing to do"


def _silence(memory: Memory, look: Observation, rules: Rules) -> tuple[str, str]:
    """A slow answer is none of a frozen server: one that is alive gets the processor when it is asked."""
    what = "paused" if look.status == "paused" else "metrics: timeout"
    if look.wakeups is None or memory.silent is None or memory.silent[0] != look.wakeups:
        memory.silent = None if look.wakeups is None else (look.wakeups, look.at, 1)
        return "unknown", what
    wakeups, since, looks = memory.silent
    memory.silent = (wakeups, since, looks + 1)
    if looks + 1 >= LOOKS and look.at - since >= rules.freeze_timeout:
        return "frozen", f"{what}; the API server has not run for {look.at - since:.0f} s"
    return "unknown", what


@dataclasses.dataclass(frozen=True)
class Action:
    """kind: none, wait, restart, recreate, stop. why: for the event."""

    kind: str
    why: str = ""


def decide(
    verdict: str, past: Sequence[float], now: float, most: int, held: str = "", failed: float | None = None
) -> Action:
    """What to do. past: times of recoveries, now: by the calendar. held: why nothing may be done, "" when it may.

    failed: when a stop failed the last time, None when none did.
    """
    kind = ACTIONS.get(verdict, "none")
    if kind == "none" or held:
        return Action("none", held if kind != "none" else "")
    # A time from the future was written before the clock was set back: it counts as just now.
    ages = [age for age in (max(0.0, now - at) for at in past) if age < BUDGET_WINDOW]
    spent = len(ages) >= most
    if (spent or kind == "stop") and failed is not None and 0 <= now - failed < BACKOFF:
        return Action("wait", f"a stop failed {now - failed:.0f} s ago, the next may be after {BACKOFF:.0f} s")
    if spent:
        return Action("stop", f"{len(ages)} recoveries within an hour did not help")
    if ages and kind != "stop" and min(ages) < (pause := BACKOFF * 2 ** (len(ages) - 1)):
        return Action("wait", f"the last recovery was {min(ages):.0f} s ago, the next may be after {pause:.0f} s")
    return Action(kind)
