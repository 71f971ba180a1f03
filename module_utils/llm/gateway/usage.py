"""What clients asked of the gateway, summed up from its access log. Pure functions."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.llm.base import tables

SPAN = re.compile(r"(\d+)([mhd])")
SECONDS = {"m": 60, "h": 3600, "d": 86400}
WORDS = ("client", "service")  # that an entry has
NUMBERS = ("status", "bytes_in", "bytes_out", "first_byte_ms", "total_ms")
WAITS = (
    "wait_ms",
    "queue_ms",
)  # at the gateway, and for a place at the engine; -1, or none in an older log, where it did not wait
ENDS = ("answered", "limited", "refused", "failed")
NOBODY = "-"  # what the log says of a request without a key that was found


def begin(since: str, now: float) -> float:
    """Seconds since 1970 from which `30m`, `24h`, `7d` or a date on requests count; ValueError says what is wrong."""
    if match := SPAN.fullmatch(since):
        return now - int(match[1]) * SECONDS[match[2]]
    try:
        date = datetime.datetime.fromisoformat(since)
    except ValueError:
        raise ValueError(f"llm_usage_since is {since!r}: write 30m, 24h, 7d, or a date such as 2027-06-30") from None
    return (date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)).timestamp()


def entries(lines: Iterable[str], start: float = 0) -> Iterator[dict[str, Any]]:
    """Requests of the access log since a time. Other lines, and lines that were cut short, are left out."""
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
            time = _seconds(entry["time"])
        except (ValueError, KeyError, TypeError):
            continue
        numbers = [*(entry.get(n) for n in NUMBERS), *(entry.get(n, 0) for n in WAITS)]
        if not all(isinstance(entry.get(w), str) for w in WORDS) or not all(type(n) is int for n in numbers):
            continue
        if time >= start:
            yield entry


def _seconds(time: str) -> float:
    return datetime.datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc).timestamp()


def begins(lines: Iterable[str]) -> str:
    """Time of the first request in the log, "" when there is none."""
    return min((e["time"] for e in entries(lines)), default="")


def shortfall(first: str, start: float) -> str:
    """A sentence for a person where the log does not go back to `start`, "" where it does. first: see `begins`."""
    if not first:
        return "The log has no entries."
    return (
        ""
        if _seconds(first) <= start
        else f"The log has entries since {first} only: what was asked before is not in it."
    )


def summary(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each client asked: client to counts, sizes and times.

    requests, answered (below 400), refused (4xx but 429), limited (429), failed (5xx, without an answer, and cut off by the
    engine), bytes_in, bytes_out, services (name to requests), queue_ms (p50 and p95 of those answered, and of those that waited in
    vain), first_byte_ms and total_ms (of those answered, from their arrival), last (time).
    """
    by_client: dict[str, list[Mapping[str, Any]]] = {}
    for entry in found:
        by_client.setdefault(entry["client"], []).append(entry)
    return {client: _sum(asked) for client, asked in sorted(by_client.items())}


def _sum(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    services: dict[str, int] = {}
    for entry in asked:
        services[entry["service"]] = services.get(entry["service"], 0) + 1
    ends = [_ended(e) for e in asked]
    answered = [e for e, end in zip(asked, ends, strict=True) if end == "answered"]
    return {
        "requests": len(asked),
        **{end: ends.count(end) for end in ENDS},
        "bytes_in": sum(e["bytes_in"] for e in asked),
        "bytes_out": sum(e["bytes_out"] for e in asked),
        "services": dict(sorted(services.items())),
        "queue_ms": _percentiles(
            waited for e, end in zip(asked, ends, strict=True) if (waited := _waited(e)) or end == "answered"
        ),
        "first_byte_ms": _percentiles([e["first_byte_ms"] for e in answered if e["first_byte_ms"] >= 0]),
        "total_ms": _percentiles([e["total_ms"] for e in answered if e["total_ms"] >= 0]),
        "last": max(e["time"] for e in asked),
    }


def _waited(entry: Mapping[str, Any]) -> int:
    """Milliseconds for which a request waited for its turn."""
    return sum(max(entry.get(w, 0), 0) for w in WAITS)


def _ended(entry: Mapping[str, Any]) -> str:
    """How a request ended. HAProxy's termination state begins with S or s where the engine broke off in the middle."""
    if 400 <= entry["status"] < 500:
        return "limited" if entry["status"] == 429 else "refused"
    whole = 0 < entry["status"] < 400 and not str(entry.get("end", "")).lower().startswith("s")
    return "answered" if whole else "failed"


def _percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """Nearest rank: always a value that was measured."""
    ranked = sorted(values)
    return {f"p{p}": ranked[max(0, -(-p * len(ranked) // 100) - 1)] if ranked else None for p in (50, 95)}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a client, for a person."""
    head = ["CLIENT", "REQUESTS", "ANSWERED", "LIMITED", "REFUSED", "FAILED", "MIB IN", "MIB OUT"]
    head += ["QUEUE MS P95", "FIRST BYTE MS", "LAST"]
    rows = []
    for client, used in found.items():
        name = "(no valid key)" if client == NOBODY else client
        counts = [str(used[c]) for c in ("requests", *ENDS)]
        sizes = [f"{used[b] / 2**20:.2f}" for b in ("bytes_in", "bytes_out")]
        times = [used["queue_ms"]["p95"], used["first_byte_ms"]["p50"]]
        rows.append((name, *counts, *sizes, *("-" if t is None else f"{t:g}" for t in times), used["last"]))
    return tables.columns(head, rows)
