"""Usage by client, from lines as HAProxy writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.llm.gateway import usage


def line(client: str, status: object, second: int = 0, **more: Any) -> str:
    entry = {"time": f"2026-11-25T14:00:{second:02d}Z", "client": client, "service": "micro", "status": status}
    return json.dumps({**entry, "bytes_in": 100, "bytes_out": 2**20, "first_byte_ms": 20, "total_ms": 90, **more})


LOG = [
    "[NOTICE]   (1) : New worker (8) forked",
    line("alice", 200, 1, first_byte_ms=10),
    line("alice", 200, 2, first_byte_ms=30),
    line("alice", 429, 3, service="-", first_byte_ms=-1),
    line("alice", 503, 4, first_byte_ms=-1),
    line("-", 401, 5, service="micro"),
    line("bob", 200, 6)[:40],
    line("bob", 200, 7).replace("bytes_in", "bytes"),
    line("bob", "many", 8),
]


def test_each_client_s_requests_are_counted_by_how_they_ended() -> None:
    found = usage.summary(usage.entries(LOG))
    alice = found["alice"]
    assert [alice[k] for k in ("requests", "answered", "limited", "refused", "failed")] == [4, 2, 1, 0, 1]
    assert alice["services"] == {"-": 1, "micro": 3} and alice["bytes_in"] == 400
    assert alice["first_byte_ms"] == {"p50": 10, "p95": 30} and alice["last"] == "2026-11-25T14:00:04Z"
    assert found["-"]["refused"] == 1 and "bob" not in found, "lines cut short or of another kind"
    assert usage.table(found)[1].startswith("(no valid key)") and usage.table(found)[2].startswith("alice")


def test_an_answer_that_the_engine_broke_off_is_none() -> None:
    found = usage.summary(usage.entries([line("alice", 200, end=end) for end in ("--", "cD", "SD", "sD")]))["alice"]
    assert (found["answered"], found["failed"]) == (2, 2), "a client that leaves has had what it wanted"


def test_waiting_is_what_the_door_and_the_engine_had_a_request_wait() -> None:
    log = [
        line("alice", 200, 1, wait_ms=60000, queue_ms=5),
        line("alice", 200, 2, wait_ms=0, queue_ms=40),
        line("alice", 503, 3, wait_ms=70000, queue_ms=-1, first_byte_ms=-1),
        line("alice", 429, 4, wait_ms=0, queue_ms=-1, first_byte_ms=-1),
        line("alice", 200, 5, queue_ms=7),  # of a log of before
        line("alice", 200, 6, wait_ms="60"),
    ]
    found = usage.summary(usage.entries(log))
    assert found["alice"]["requests"] == 5 and found["alice"]["queue_ms"] == {"p50": 40, "p95": 70000}
    heads, row = (text.split("  ") for text in usage.table(found))
    shown = dict(zip([h.strip() for h in heads if h], [c.strip() for c in row if c], strict=True))
    assert shown["QUEUE MS P95"] == "70000"
    assert usage.summary(usage.entries([line("-", 401)]))["-"]["queue_ms"]["p95"] is None


def test_a_log_that_begins_later_than_asked_for_says_so() -> None:
    first = usage.begins(LOG)
    assert first == "2026-11-25T14:00:01Z" and usage.begins(LOG[:1]) == ""
    start = usage.begin(first.replace("Z", "+00:00"), 0)
    assert usage.shortfall(first, start) == usage.shortfall(first, start + 1) == ""
    assert f"since {first} only" in usage.shortfall(first, start - 1)
    assert "no entries" in usage.shortfall("", start)


def test_only_what_was_asked_since_then_counts() -> None:
    start = usage.begin("2026-11-25T14:00:03+00:00", 0)
    assert usage.summary(usage.entries(LOG, start))["alice"]["requests"] == 2
    assert usage.begin("2h", 10_000) == 2_800
    with pytest.raises(ValueError, match="write 30m, 24h, 7d, or a date"):
        usage.begin("yesterday", 0)
