"""Checks of a smoke test, as data: those that a declaration may name, and when each is asked."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """A check. depth: gate (what a deployment waits for) or full. needs: what the service must have, or "".

    patience: how many times the time-out that is declared for a check this one may take.
    """

    id: str
    depth: str
    needs: str = ""
    patience: int = 1


CHECKS = (
    Asked("health", "gate"),
    Asked("models", "gate"),
    Asked("no_key_refused", "gate"),
    Asked("wrong_key_refused", "gate"),
    Asked("answer", "gate", "", 2),  # asked with log-probabilities, see engine.checks
    Asked("streaming", "gate"),
    Asked("repetition", "gate"),
    Asked("fixed_text", "gate", "", 3),
    Asked("reasoning", "gate", "reasoning"),
    Asked("reasoning_streamed", "full", "reasoning"),
    Asked("reasoning_off", "full", "reasoning"),
    Asked("tool_auto", "gate", "tools"),
    Asked("tool_streamed", "full", "tools"),
    Asked("tool_required", "full", "tools"),
    Asked("tool_named", "full", "tools"),
    Asked("tool_none", "full", "tools"),
    Asked("tool_zero_argument", "full", "tools"),
    Asked("tool_parallel", "full", "tools"),
    Asked("tool_result", "full", "tools"),
    Asked("stop", "full"),
    Asked("n", "full"),
    Asked("logprobs", "full", "", 3),  # a first one may compile for long
    Asked("structured", "full"),
    Asked("unicode", "full"),
    Asked("vision", "full", "vision", 3),
    Asked("responses", "full"),
    Asked("anthropic", "full"),
    Asked("anthropic_streaming", "full"),
    Asked("count_tokens", "full"),
    Asked("needle_10", "full", "needle", 5),
    Asked("needle_50", "full", "needle", 5),
    Asked("needle_90", "full", "needle", 5),
    Asked("shared_prefix", "full", "caching", 3),
    Asked("chunked_prefill", "full", "chunks", 5),
    Asked("together", "full", "", 3),
    Asked("burst", "full", "", 3),
    Asked("cancel", "full", "", 2),  # it may have to wait until the engine has nothing else to do
    Asked("bad_requests", "full"),
    Asked("speed", "gate", "history", 3),
)
