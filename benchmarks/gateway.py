#!/usr/bin/env python3
"""What the gateway adds until the first byte of an answer, what it passes, and the memory it takes.

Usage: benchmarks/gateway.py [--rounds N] [--seconds N] [--streams N ...] [--first]. The last line is one JSON object.

The gateway is the real one, of role gateway, in a container of its own beside a STUB of an engine (tests/e2e/standalone.py), which
answers at once. Each round asks the stub's own port and the gateway's ports in turn, with 1, 64 and 1,000 streams; differences are
taken within a round and the medians of rounds are told, since other things run on such machines too. Needs root, Docker and the
images of the demo; touches nothing of a deployment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ansible.module_utils

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))
sys.path.insert(0, str(PROJECT))

from tests.e2e import standalone  # noqa: E402 - the path comes first

SERVICE, MODEL, PORT, KEY = "bench", "bench-model", 5000, "sk-bench-0123456789abcdef0123456789abcdef"
# Streams to (pieces, seconds between them): enough requests for a percentile at any number, at a pace that engines reach.
PACES = {1: (4, 0.02), 64: (25, 0.02), 1000: (40, 0.1)}
OWN = "own port"


def ways(gateway: standalone.Gateway) -> dict[str, dict[str, Any]]:
    """The ways to the stub that are compared."""
    given = {"path": "/v1/chat/completions", "key": KEY, "model": MODEL, "tls": False}
    return {
        OWN: {**given, "address": standalone.address(gateway.engines[SERVICE]), "port": 8000},
        "gateway": {**given, "address": gateway.address, "port": PORT},
        # The one address of all services: the model is read from the body.
        "gateway, TLS": {**given, "address": gateway.address, "port": standalone.HTTPS, "tls": True},
    }


def ask(way: dict[str, Any], streams: int, seconds: float, pieces: int, every: float) -> dict[str, Any]:
    """What clients got; see gateway_client.py. Times in milliseconds."""
    asked = {**way, "streams": streams, "pieces": pieces, "every": every, "seconds": seconds}
    asked["warm"] = max(1.0, 1.2 * pieces * every, streams / 250 if way["tls"] else 0)
    argv = [sys.executable, str(PROJECT / "benchmarks/gateway_client.py"), json.dumps(asked)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{streams} streams, {way['address']}:{way['port']}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    first = sorted(found["first"])
    return {
        "p50": first[len(first) // 2] / 1000,
        "p99": first[min(len(first) * 99 // 100, len(first) - 1)] / 1000,
        "requests": len(first) / seconds,
        "pieces": found["pieces"] / seconds,
    }


def pids(container: str) -> list[str]:
    """Processes of a container."""
    return standalone.docker("top", container, "-o", "pid").split()[1:]


def memory(processes: list[str]) -> float:
    """MiB that processes have resident."""
    lines = [line for pid in processes for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@contextmanager
def watched(processes: list[str], most: list[float]) -> Iterator[None]:
    """Adds the most memory that processes had in a with block."""
    over, seen = threading.Event(), [memory(processes)]

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(memory(processes))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        most.append(max(seen))


def first(containers: list[str]) -> None:
    """Let clients, gateway and stub run before all else: what else this machine does is not what is measured."""
    groups = Path("/sys/fs/cgroup/cpu/docker")  # version 1 of control groups gives containers none of it by default
    version1 = (groups / "cpu.rt_runtime_us").exists()
    if version1:
        (groups / "cpu.rt_runtime_us").write_text("900000", encoding="utf-8")
    for container in containers:
        if version1:
            own = groups / standalone.docker("inspect", "--format", "{{.Id}}", container)
            (own / "cpu.rt_runtime_us").write_text("440000", encoding="utf-8")
        for pid in pids(container):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(10))
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def added(rounds: list[dict[str, Any]], own: list[dict[str, Any]], key: str) -> list[float]:
    """What a way took more than the stub's own port, by round."""
    return [r[key] - o[key] for r, o in zip(rounds, own, strict=True)]


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--streams", type=int, nargs="*", default=list(PACES))
    parser.add_argument("--first", action="store_true", help="run before all else on this machine, in real time")
    options = parser.parse_args()
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    fastest: dict[str, list[dict[str, Any]]] = {}
    most: dict[int, list[float]] = {0: []}
    route = {"service": SERVICE, "port": PORT, "model": MODEL}
    with standalone.standing([route], {SERVICE: [KEY]}) as gateway:
        processes = pids(gateway.container)
        if options.first:
            first([gateway.container, *gateway.engines.values()])
        with watched(processes, most[0]):
            pass
        for _ in range(options.rounds):
            for streams in options.streams:
                for name, way in ways(gateway).items():
                    with watched(processes, most.setdefault(streams, [])):
                        found.setdefault((streams, name), []).append(
                            ask(way, streams, options.seconds, *PACES[streams])
                        )
            for name, way in ways(gateway).items():  # answers of one piece, as many as pass
                fastest.setdefault(name, []).append(ask(way, max(options.streams), options.seconds, 0, 0))
    if options.first and (group := Path("/sys/fs/cgroup/cpu/docker/cpu.rt_runtime_us")).exists():
        group.write_text("0", encoding="utf-8")
    last: dict[str, Any] = {"memory_mib": {n: round(max(values)) for n, values in most.items()}}
    for (streams, name), rounds in found.items():
        own = found[streams, OWN]
        line = f"{streams:5} streams  {name:13} {spread([r['pieces'] for r in rounds])} pieces/s"
        for key in ("p50", "p99"):
            line += f"  {key} {spread([r[key] for r in rounds])}"
            if rounds is not own:
                more = added(rounds, own, key)
                line += f" added {spread(more)}"
                last[f"{name}: {key} added at {streams}, ms"] = round(statistics.median(more), 2)
        print(line)
    for name, rounds in fastest.items():
        print(f"as many as pass  {name:13} {spread([r['requests'] for r in rounds])} requests/s")
        last[f"{name}: requests/s at {max(options.streams)}"] = round(statistics.median(r["requests"] for r in rounds))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(json.dumps(last))


if __name__ == "__main__":
    main()
