"""What hung is another container of the same settings, with diagnostics; a service that is only reported is let be."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host


def events(host: Host) -> list[dict[str, Any]]:
    lines = host.file("/opt/llm/supervisor/events.jsonl").content_string.splitlines()
    return [json.loads(line) for line in lines]


def test_both_were_recreated_once_of_the_same_settings(host: Host) -> None:
    before = host.check_output("cat /root/engines").split()
    for service, old in zip(("chat", "other"), before, strict=True):
        found = json.loads(host.check_output(f"docker inspect llm-{service}-01234567"))[0]
        assert found["Id"] != old and found["State"]["Running"]
        assert found["Config"]["Labels"]["llm.service"] == service
        assert found["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        recoveries = [e for e in events(host) if (e["event"], e["service"]) == ("recovery", service)]
        assert [e["problem"] for e in recoveries if e["action"] == "recreate"] == [""]
    assert "llm-chat-01234567-new" not in host.check_output("docker ps --all --format '{{.Names}}'")


def test_diagnostics_were_kept_before(host: Host) -> None:
    (recovery, *_) = [e for e in events(host) if e["event"] == "recovery"]
    kept = host.file(recovery["diagnostics"])
    assert set(kept.listdir()) == {"cause.json", "inspect.json", "log.txt", "metrics.txt"}
    cause = json.loads(host.file(f"{recovery['diagnostics']}/cause.json").content_string)
    assert "nvidia-smi in the container ended with 12" in cause["missing"]["gpu.txt"], (
        "there is none in the stub's image"
    )
    assert cause["step"] == "supervised: wedged" and "no token for" in cause["cause"]


def test_what_it_did_is_counted_over_its_own_restart(host: Host) -> None:
    begun = [e["event"] for e in events(host)].count("begun")
    restarted = [e for e in events(host) if e.get("verdict") == "dead" and e["event"] == "recovery"]
    assert begun == 2 + len(restarted), "another configuration, another start; and one with Docker"
    metrics = host.file("/opt/llm/supervisor/metrics.prom").content_string
    assert 'llm_supervisor_recoveries_total{service="chat",action="recreate"} 1' in metrics


def test_what_ran_is_started_again_with_docker(host: Host) -> None:
    dead = [(e["service"], e["action"]) for e in events(host) if e["event"] == "recovery" and e["verdict"] == "dead"]
    restarted = host.file("/run/systemd/system").is_directory  # the other machine's Docker was left alone
    assert dead == ([("chat", "restart")] if restarted else [])
