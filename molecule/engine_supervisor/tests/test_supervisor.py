"""The supervisor runs, sees the engines, says so, and is confined."""

from __future__ import annotations

import json

from testinfra.host import Host

FOLDER = "/opt/llm/supervisor"


def test_it_sees_the_engines(host: Host) -> None:
    host.run_expect(
        [0], f"timeout 30 sh -c 'until grep -q verdict=.idle.*1$ {FOLDER}/metrics.prom; do sleep 0.2; done'"
    )
    metrics = host.file(f"{FOLDER}/metrics.prom").content_string
    for service in ("chat", "other"):
        assert f'llm_supervisor_verdict{{service="{service}",verdict="idle"}} 1' in metrics
    events = [json.loads(line) for line in host.file(f"{FOLDER}/events.jsonl").content_string.splitlines()]
    assert events[0]["event"] == "begun" and not [e for e in events if e["event"] in ("error", "other-authority")]


def test_it_is_confined_but_for_what_it_needs(host: Host) -> None:
    container = json.loads(host.check_output("docker inspect llm-supervisor"))[0]
    settings = container["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"] and not settings["Privileged"]
    assert "no-new-privileges:true" in settings["SecurityOpt"] and settings["Memory"] == 256 * 2**20
    assert set(container["NetworkSettings"]["Networks"]) == {"llm"} and not settings["PortBindings"]
    writable = {m["Destination"] for m in container["Mounts"] if m["RW"]}
    assert writable == {"/var/run/docker.sock", FOLDER, "/opt/llm/services", "/opt/llm/state"}


def test_its_own_health_is_that_of_its_last_look(host: Host) -> None:
    test = json.loads(host.check_output("docker inspect llm-supervisor"))[0]["Config"]["Healthcheck"]["Test"]
    command = " ".join(f"'{word}'" if word != test[-1] else f'"{word}"' for word in test[1:])
    host.check_output(f"docker exec llm-supervisor {command}")
