"""What does not help is not tried for ever, and others who restart engines are named."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host


def events(host: Host, kind: str) -> list[dict[str, Any]]:
    lines = host.file("/opt/llm/supervisor/events.jsonl").content_string.splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def state(host: Host, service: str) -> str:
    return str(host.check_output(f"docker inspect --format '{{{{.State.Status}}}}' llm-{service}-01234567"))


def test_the_second_freeze_stops_it(host: Host) -> None:
    found = [(e["action"], e["problem"]) for e in events(host, "recovery") if e["service"] == "frozen"]
    assert found == [("restart", ""), ("stop", "")] and state(host, "frozen") == "exited"


def test_what_keeps_ending_is_left_stopped_after_three_restarts_by_docker(host: Host) -> None:
    restarted = [e for e in events(host, "restarted") if e["service"] == "dying"]
    assert {(e["by"], e["exit_code"]) for e in restarted} == {("Docker's restart policy", 3)} and len(restarted) >= 3
    found = [e["action"] for e in events(host, "recovery") if e["service"] == "dying"]
    # Of what ended before the supervisor began it knows nothing, and may have tried once.
    assert found in (["stop"], ["restart", "stop"]) and state(host, "dying") == "exited"


def test_others_who_restart_are_named(host: Host) -> None:
    assert {e["name"] for e in events(host, "other-authority")} == {"autoheal", "vllm.service"}
    assert (
        'llm_supervisor_other_authority{name="autoheal"} 1'
        in host.file("/opt/llm/supervisor/metrics.prom").content_string
    )
