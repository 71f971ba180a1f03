"""Put each check of a smoke test to a deployed engine many times, alone, and count how often it fails: none may rest on luck.

Usage, as root: PYTHONPATH=library .venv/bin/python -m benchmarks.checks [SERVICE] [TIMES] [CHECK ...]

Without arguments it puts all that apply to micro-cpu, 200 times each. It asks the engine straight, not through the gateway. A
warning counts as a failure. The last line is one JSON object: {"service", "times", "failed": {check: times}, "seconds": {check:
median}}.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import tests.conftest  # noqa: F401 - makes our module_utils importable

# isort: split
import docker
import llm_smoke
from ansible.module_utils.llm.engine import judge

from tests.e2e.test_mutations import parameters, served


def main() -> int:
    """Ask, and print what failed as it fails."""
    service, times, only = (sys.argv[1:] or ["micro-cpu"])[0], int((sys.argv[2:] or ["200"])[0]), sys.argv[3:]
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock", version="1.41")
    (container,) = client.containers.list(filters={"label": f"llm.service={service}"})
    address = f"http://{container.attrs['NetworkSettings']['Networks']['llm']['IPAddress']}:8000"
    of = served(service)
    params = parameters(address, of.name, of, of.args)
    key = Path(f"/opt/llm/services/{service}/current/secrets/client-key").read_text(encoding="utf-8").strip()
    asked = judge.applying(of.args, "full", room=params["context"], needle=params["needle"])
    failed: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for check in (a for a in asked if a.id not in params["unable"] and (not only or a.id in only)):
        took = []
        failed[check.id] = 0
        start = time.monotonic()
        for _time in range(times):
            engine = llm_smoke.make_service(params, key, None)
            found = llm_smoke.judged(check.id, getattr(engine, check.id), params["timeout"] * check.patience, [key])
            took.append(found["seconds"])
            if not found["ok"] or found["remedy"]:
                failed[check.id] += 1
                print(f"  {check.id}: {found['evidence']}", flush=True)
        seconds[check.id] = round(statistics.median(took), 3)
        print(f"{check.id}: {failed[check.id]} of {times} failed, {time.monotonic() - start:.0f} s", flush=True)
    print(json.dumps({"service": service, "times": times, "failed": failed, "seconds": seconds}))
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main())
