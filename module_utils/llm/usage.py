"""What clients asked of the gateway, summed up from its access log. Pure functions."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

SPAN = re.compile(r"(\d+)([mhd])")
SECONDS = {"m": 60, "h": 3600, "d": 86400}
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
    """Requests of the access log since a time; what else is in it, and a line that was cut short, is passed over."""
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
            time = datetime.datetime.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
        except (ValueError, KeyError, TypeError):
            continue
        if time.timestamp() >= start:
            yield entry


def summary(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each client asked: client to counts, sizes and times.

    requests, answered (below 400), refused (4xx but 429), limited (429), failed (5xx and cut), bytes_in, bytes_out, services (name
    to requests), first_byte_ms and total_ms (p50 and p95 of those answered), last (time).
    """
    by_client: dict[str, list[Mapping[str, Any]]] = {}
    for entry in found:
        by_client.setdefault(entry["client"], []).append(entry)
    return {client: _sum(asked) for client, asked in sorted(by_client.items())}


def _sum(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    services: dict[str, int] = {}
    for entry in asked:
        services[entry["service"]] = services.get(entry["service"], 0) + 1
    answered = [e for e in asked if 0 < e["status"] < 400]
    return {
        "requests": len(asked),
        "answered": len(answered),
        "limited": sum(e["status"] == 429 for e in asked),
        "refused": sum(400 <= e["status"] < 500 and e["status"] != 429 for e in asked),
        "failed": sum(e["status"] >= 500 or e["status"] <= 0 for e in asked),
        "bytes_in": sum(e["bytes_in"] for e in asked),
        "bytes_out": sum(e["bytes_out"] for e in asked),
        "services": dict(sorted(services.items())),
        "first_byte_ms": _percentiles([e["first_byte_ms"] for e in answered if e["first_byte_ms"] >= 0]),
        "total_ms": _percentiles([e["total_ms"] for e in answered if e["total_ms"] >= 0]),
        "last": max(e["time"] for e in asked),
    }


def _percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """Nearest rank: always a value that was measured."""
    ranked = sorted(values)
    return {f"p{p}": ranked[max(0, -(-p * len(ranked) // 100) - 1)] if ranked else None for p in (50, 95)}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a client, for a person."""
    rows = [
        ("CLIENT", "REQUESTS", "ANSWERED", "LIMITED", "REFUSED", "FAILED", "MIB IN", "MIB OUT", "FIRST BYTE MS", "LAST")
    ]
    for client, used in found.items():
        name = "(no valid key)" if client == NOBODY else client
        counts = [str(used[c]) for c in ("requests", "answered", "limited", "refused", "failed")]
        sizes = [f"{used[b] / 2**20:.2f}" for b in ("bytes_in", "bytes_out")]
        first = used["first_byte_ms"]["p50"]
        rows.append((name, *counts, *sizes, "-" if first is None else f"{first:g}", used["last"]))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
