"""The shape of a verdict: what was asked of each service, and what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class CheckResult(TypedDict):
    """One question put to a service: ``evidence`` says what came back, ``remedy`` what to do.

    A remedy beside ``ok`` is a warning; ``remedy`` is "" when there is nothing to do.
    """

    id: str
    ok: bool
    seconds: float
    evidence: str
    remedy: str


class Numbers(TypedDict):
    """What a service's log-probabilities say of its known answer and of a fixed text (see numbers.Reading); None where unknown."""

    question: str
    answer: str
    margin: float | None
    reading: dict[str, Any] | None


class _Told(TypedDict, total=False):
    numbers: Numbers


class ServiceVerdict(_Told):
    """All checks of one service; ok only when each is. numbers: where log-probabilities were asked for."""

    ok: bool
    checks: list[CheckResult]


class Verdict(TypedDict):
    """The answer of a run: ok only when every service is, and there is at least one."""

    ok: bool
    services: dict[str, ServiceVerdict]


def service_verdict(checks: Sequence[CheckResult]) -> ServiceVerdict:
    """Sum up one service. No check at all proves nothing, so it is not ok."""
    return ServiceVerdict(ok=bool(checks) and all(check["ok"] for check in checks), checks=list(checks))


def verdict(services: Mapping[str, ServiceVerdict]) -> Verdict:
    """Sum up a run."""
    ordered = {name: services[name] for name in sorted(services)}
    return Verdict(ok=bool(ordered) and all(item["ok"] for item in ordered.values()), services=ordered)


def merge_verdict(held: object, name: str, result: ServiceVerdict) -> Verdict:
    """Put one service's result into a verdict read from a file; anything in there that is no verdict is dropped."""
    services: dict[str, ServiceVerdict] = {}
    if isinstance(held, dict) and isinstance(held.get("services"), dict):
        for key, item in held["services"].items():
            if isinstance(item, dict) and isinstance(item.get("ok"), bool) and isinstance(item.get("checks"), list):
                services[str(key)] = ServiceVerdict(ok=item["ok"], checks=item["checks"])
                if isinstance(item.get("numbers"), dict):
                    services[str(key)]["numbers"] = item["numbers"]
    services[name] = result
    return verdict(services)
