"""How an engine boots, from its log: phases, the numbers it measured, the likely cause of a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from ansible.module_utils.llm.base.redact import redact, shorten
from ansible.module_utils.llm.engine import log, vllm

_ORDER = {phase.name: index for index, phase in enumerate(vllm.PHASES)}
_TEXT = {phase.name: phase.text for phase in vllm.PHASES}

_DETAILS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^Loading .*checkpoint shards:.*?\| (\d+)/(\d+) \["), "shard {0} of {1}"),
    (re.compile(r"^Capturing CUDA graphs.*?\| (\d+)/(\d+) \["), "graph {0} of {1}"),
    (re.compile(r"Compiling a graph for compile range (\([\d, ]+\))"), "range {0}"),
    (re.compile(r"^Resolved architecture: (\S+)"), "{0}"),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "{0} tokens"),
)


class PhaseTime(TypedDict):
    """How long one phase took, or has taken so far, in seconds."""

    phase: str
    seconds: float


@dataclass(frozen=True)
class BootProgress:
    """How far a boot has come; ``feed`` gives the next state. Times are seconds since the epoch.

    Phases only move forward: with several workers the lines of one mix with those of another that is further on.
    """

    started: float
    marks: tuple[tuple[str, float], ...] = ()
    detail: str = ""
    last_line: str = ""

    @property
    def phase(self) -> str:
        """Name of the current phase."""
        return self.marks[-1][0] if self.marks else vllm.PHASES[0].name

    def feed(self, at: float, line: str) -> BootProgress:
        """Take one log line that the engine wrote at ``at``."""
        _level, text = log.strip_prefix(line)
        text = text.strip()
        if not text:
            return self
        state = replace(self, last_line=shorten(redact(text), 200))
        here = _ORDER[self.phase]
        for phase in reversed(vllm.PHASES[here + 1 :]):
            if phase.begins.search(text):
                state = replace(state, marks=(*self.marks, (phase.name, at)), detail="")
                break
        for pattern, form in _DETAILS:
            found = pattern.search(text)
            if found:
                return replace(state, detail=form.format(*found.groups()))
        return state

    def elapsed(self, now: float) -> float:
        """Seconds since the container started."""
        return max(0.0, now - self.started)

    def ready_at(self) -> float | None:
        """When the API server said that it was up, or None."""
        return next((at for name, at in self.marks if name == "ready"), None)

    def phases(self, now: float) -> list[PhaseTime]:
        """Return the time of every phase begun so far, in order; the last one counts up to ``now`` unless it is "ready"."""
        starts = [(vllm.PHASES[0].name, self.started), *self.marks]
        ends = [at for _name, at in self.marks] + [now]
        return [
            PhaseTime(phase=name, seconds=round(max(0.0, end - at), 1))
            for (name, at), end in zip(starts, ends, strict=True)
            if name != "ready"
        ]

    def describe(self) -> str:
        """Say in a few words what the engine is doing."""
        text = _TEXT[self.phase]
        return f"{text} ({self.detail})" if self.detail else text

    def quiet(self) -> str:
        """Describe a phase that goes on, with the last line of the log: it is what an operator would look up."""
        return f"{self.describe()}; its log's last line: {self.last_line}" if self.last_line else self.describe()


def harvest(lines: Iterable[str]) -> dict[str, Any]:
    """Collect the numbers that the engine measured about itself during one boot.

    Keys, where the log has them: version, architecture, attention_backend, max_model_len (tokens), checkpoint_gib (on
    disk), weights_gib (in the memory of one worker), weights_seconds, load_seconds, compile_seconds, graph_seconds,
    graph_gib, graph_estimate_gib (as counted before the KV cache is sized), kv_cache_gib, kv_cache_tokens, kv_concurrency
    (requests of full length), gpu_total_gib, gpu_free_gib (when the engine looks first), requested_gib, activation_gib,
    other_gib (not the framework's), consumed_gib (weights and those), init_seconds. GiB are 2**30 bytes.
    """
    result: dict[str, Any] = {}
    for line in lines:
        _level, text = log.strip_prefix(line)
        for number in vllm.NUMBERS:
            found = number.pattern.search(text)
            if found:
                value = number.convert(found.group(1))
                held = result.get(number.key)
                result[number.key] = value if held is None else number.choose(held, value)
    return result


def compile_cache(lines: Iterable[str]) -> str:
    """What a boot found in its folder of compiled code: "warm" (it was loaded), "cold" (it was made), "unused" (neither).

    Parts may be loaded and others made, as after an aborted boot. That is "cold": the making is what takes time.
    """
    texts = [log.strip_prefix(line)[1] for line in lines]

    def seen(words: str) -> bool:
        return any(words in text for text in texts)

    if seen("Compiling a graph for "):
        return "cold"
    if seen("Directly load "):
        return "warm"
    return "cold" if seen("saved AOT compiled function") else "unused"


# ------------------------------------------------------------------------------------------------------ likely causes


@dataclass(frozen=True)
class Cause:
    """Why a boot failed, as far as the log tells: an id, a sentence, what to do, and the line that shows it."""

    id: str
    cause: str
    remedy: str
    line: str = ""

    def __str__(self) -> str:
        """Return the sentence for a user."""
        return f"{self.cause} {self.remedy}"


def likely_cause(lines: Sequence[str], *, exit_code: int | None = None, oom_killed: bool = False) -> Cause | None:
    """Name the likely cause of a failed boot, or None when neither state nor log tells.

    Lines of level DEBUG, INFO and WARNING are not looked at: a warning may quote the very error it warns of.
    """
    texts = [text for level, text in map(log.strip_prefix, lines) if level in ("", "ERROR", "CRITICAL")]
    if oom_killed:
        return Cause(
            "out_of_memory",
            "The container reached its memory limit and was killed.",
            "Raise `limits.memory` of the service, or lower VLLM_CPU_KVCACHE_SPACE or `max-num-batched-tokens`.",
        )
    for rule in vllm.RULES:
        for text in reversed(texts):
            found = rule.pattern.search(text)
            if found:
                values = {
                    key: redact(shorten(value or "", 200)).rstrip(". ") for key, value in found.groupdict().items()
                }
                line = shorten(redact(text.strip()), 300)
                return Cause(rule.id, rule.cause.format(**values), rule.remedy, line)
    for text in reversed(texts):
        if vllm.EXCEPTION.search(text) and not vllm.CONSEQUENCE.search(text):
            line = shorten(redact(text.strip()), 300)
            return Cause("exception", f"The engine stopped with: {line}", "Read the log lines below.", line)
    if exit_code == 137:
        return Cause(
            "killed",
            "The engine was killed (SIGKILL).",
            vllm.KILLED,
        )
    if exit_code in (139, 134, 132):
        return Cause(
            "crashed",
            f"The engine's process crashed (exit code {exit_code}: a fault in native code).",
            vllm.CRASHED,
        )
    return None
