"""How many requests an engine has, by its own metrics."""

from __future__ import annotations

import dataclasses

from ansible.module_utils.llm.engine.metrics import metric_sum, parse_metrics


@dataclasses.dataclass(frozen=True)
class Load:
    """Requests that an engine works on and that wait in it; None when it did not say."""

    running: int | None
    waiting: int | None

    @property
    def idle(self) -> bool:
        """Whether the engine said that it has no requests."""
        return self.running == 0 and self.waiting == 0

    def text(self) -> str:
        """The load in words, for a person."""
        if self.running is None:
            return "does not say how many requests it has"
        return f"{self.running} running, {self.waiting} waiting"


def load(metrics: str) -> Load:
    """Read an engine's /metrics; an engine with other names for them says nothing, and counts as busy."""
    samples = parse_metrics(metrics)
    running = metric_sum(samples, "vllm:num_requests_running")
    waiting = metric_sum(samples, "vllm:num_requests_waiting")
    if running is None or waiting is None:
        return Load(None, None)
    return Load(int(running), int(waiting))


IDLE_LOOKS = 2  # a request on its way from the gateway is seen at the second look
