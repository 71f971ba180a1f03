#!/usr/bin/env python3
"""What the gateway adds until the first byte of an answer, what it passes, and the memory it takes.

Usage: benchmarks/door.py [--rounds N] [--seconds N]. The last line is one JSON object.

The gateway is the real one: role gateway's configuration, program and limits, in a container of its own beside a STUB of an engine
(door_engine.py), which answers at once. Each round asks the stub's own port and the gateway's ports in turn, with 1, 64 and 1,000
streams; differences are taken within a round and the medians of rounds are told, since other things run on such machines too.
Needs root, Docker and the images of the demo; touches nothing of a deployment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))
sys.path.insert(0, str(PROJECT))

from ansible.module_utils.llm import compose, door, files  # noqa: E402 - the path comes first, here and below

from tests import catalogs, rendered  # noqa: E402

NAME = "llm-bench-door"  # of the network, and the beginning of the containers' names
SERVICE, MODEL, PORT, KEY = "bench", "bench-model", 5000, "sk-bench-0123456789abcdef0123456789abcdef"
UID = 64001
# Streams to (pieces, seconds between them): enough requests for a percentile at any number, at a pace that engines reach.
PACES = {1: (4, 0.02), 64: (25, 0.02), 1000: (40, 0.1)}
GOAL = 1.0  # milliseconds


def docker(*arguments: str) -> str:
    """Output of a docker command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def configure(folder: Path, image: str) -> Path:
    """Write what the gateway reads, and its compose file; returns that."""
    declared = catalogs.declared("demo", gateway={"https_port": 8443, "http_port": 0})
    route = {"service": SERVICE, "port": PORT, "container": f"{NAME}-engine", "model": MODEL}
    given = {"gateway_root": str(folder), "gateway_image": image, "gateway_uid": UID}
    etc = folder / "gateway/etc"
    texts = {
        "haproxy.cfg": rendered.gateway(declared, [route], "haproxy.cfg.j2", **given),
        "door.lua": (PROJECT / "roles/gateway/files/door.lua").read_text(encoding="utf-8"),
        "maps/keys.map": door.key_map([], {SERVICE: [KEY]}),
        "maps/models.map": f"{MODEL} {SERVICE}\n",
        "maps/engines.map": "",
        "maps/returns.map": "",
        "tls/door.pem": certificate(folder),
    }
    for name, text in texts.items():
        files.write(etc / name, text, 0o400, UID)
    run = folder / "gateway/run"
    run.mkdir(0o700)
    os.chown(run, UID, UID)
    document = yaml.safe_load(rendered.gateway(declared, [route], "compose.yml.j2", **given))
    document |= {"name": NAME, "networks": {NAME: {"external": True}}}
    del document["services"]["gateway"]["labels"]  # nothing of a deployment
    document["services"]["gateway"] |= {"container_name": f"{NAME}-gateway", "networks": [NAME], "ports": []}
    files.write(folder / "compose.yml", yaml.safe_dump(document))
    return folder / "compose.yml"


def certificate(folder: Path) -> str:
    """A certificate that nobody trusts, and its key."""
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bench"]
    subprocess.run(["openssl", *made, "-out", "pem", "-keyout", "key"], cwd=folder, capture_output=True, check=True)
    return (folder / "pem").read_text() + (folder / "key").read_text()


@contextmanager
def gateway() -> Iterator[dict[str, str]]:
    """Addresses of a stub and a gateway before it, for the time of a with block."""
    images = {name: compose.image_ref(catalogs.declared("demo").images[name]) for name in ("vllm-cpu", compose.GATEWAY_IMAGE)}
    with tempfile.TemporaryDirectory() as place:
        file = configure(Path(place), images[compose.GATEWAY_IMAGE])
        up = ["compose", "--file", str(file)]
        program = f"{PROJECT}/benchmarks/door_engine.py:/door_engine.py:ro"
        docker("network", "create", "--internal", NAME)
        try:
            docker("run", "--detach", "--name", f"{NAME}-engine", "--network", NAME, "--volume", program, "--entrypoint",
                   "python3", images["vllm-cpu"], "/door_engine.py", "8000")  # fmt: skip
            docker(*up, "up", "--detach", "--no-build", "--pull", "never")
            shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            names = {n: f"{NAME}-{n}" for n in ("engine", "gateway")}
            yield {n: docker("inspect", "--format", shown, container) for n, container in names.items()}
        finally:
            docker("rm", "--force", *(f"{NAME}-{n}" for n in ("gateway", "engine")))
            docker("network", "rm", NAME)


def paths(addresses: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The ways to the stub that are compared."""
    given = {"path": "/v1/chat/completions", "key": KEY, "model": MODEL, "tls": False, "padding": 0}
    return {
        "own port": {**given, "address": addresses["engine"], "port": 8000},
        "gateway": {**given, "address": addresses["gateway"], "port": PORT},
        "gateway, TLS": {**given, "address": addresses["gateway"], "port": 8443, "tls": True},
    }


def ask(way: dict[str, Any], streams: int, seconds: float, **more: Any) -> dict[str, Any]:
    """What clients got; see door_client.py."""
    pieces, every = PACES[streams]
    asked = {**way, "streams": streams, "pieces": pieces, "every": every, "seconds": seconds, **more}
    asked["warm"] = max(1.0, 1.2 * asked["pieces"] * asked["every"])
    argv = [sys.executable, str(PROJECT / "benchmarks/door_client.py"), json.dumps(asked)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{streams} streams, {way['address']}:{way['port']}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    first = sorted(found["first"])
    return {
        "p50": first[len(first) // 2] / 1000,
        "p99": first[min(len(first) * 99 // 100, len(first) - 1)] / 1000,
        "requests": len(first),
        "pieces_a_second": found["pieces"] / seconds,
        "requests_a_second": len(first) / seconds,
    }


def memory() -> float:
    """MiB that the gateway's processes have resident."""
    pids = docker("top", f"{NAME}-gateway", "-o", "pid").split()[1:]
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def while_asked(look: Callable[[], float], work: Callable[[], Any]) -> tuple[Any, float]:
    """What work gives, and the largest of what was seen meanwhile."""
    import threading

    seen, over = [look()], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return work(), max(seen)
    finally:
        over.set()
        thread.join()


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--streams", type=int, nargs="*", default=list(PACES))
    parser.add_argument("--first", action="store_true", help="run before all else on this machine, in real time")
    options = parser.parse_args()
    with gateway() as addresses:
        ways = paths(addresses)
        end = time.monotonic() + 30
        while docker("exec", f"{NAME}-gateway", "haproxy", "-v") and not ready(addresses["gateway"]):
            if time.monotonic() > end:
                sys.exit(f"the gateway does not serve: {docker('logs', f'{NAME}-gateway')[-2000:]}")
            time.sleep(0.2)
        if options.first:
            first()
        found: dict[tuple[int, str], list[dict[str, Any]]] = {}
        empty, peak = memory(), 0.0
        for _ in range(options.rounds):
            for streams in options.streams:
                for name, way in ways.items():
                    got, most = while_asked(memory, lambda w=way, s=streams: ask(w, s, options.seconds))
                    found.setdefault((streams, name), []).append(got)
                    peak = max(peak, most)
        for (streams, name), rounds in found.items():
            own = found[streams, "own port"]
            line = f"{streams:5} streams, {name:13}"
            for key in ("p50", "p99"):
                line += f"  {key} {spread([r[key] for r in rounds])}"
                if rounds is not own:
                    line += f" added {spread([r[key] - o[key] for r, o in zip(rounds, own, strict=True)])}"
            print(line, f" {rounds[0]['requests']} requests, {spread([r['pieces_a_second'] for r in rounds])} pieces/s")
        print(f"memory {empty:.1f} -> {peak:.1f} MiB, load {os.getloadavg()}, {platform.machine()}")


def first() -> None:
    """Let clients, gateway and stub run before all else: this machine's other work is not what is measured."""
    groups = Path("/sys/fs/cgroup/cpu/docker")  # version 1 of control groups gives them none of it by default
    for number, name in enumerate(("engine", "gateway")):
        own, *threads = (docker("inspect", "--format", "{{.Id}}", f"{NAME}-{name}"),)
        if (groups / "cpu.rt_runtime_us").exists():
            if not number:
                (groups / "cpu.rt_runtime_us").write_text("900000")
            (groups / own / "cpu.rt_runtime_us").write_text("440000")
        for pid in docker("top", own, "-o", "pid").split()[1:]:
            threads += Path(f"/proc/{pid}/task").iterdir()
        for thread in threads:
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(10))
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


def ready(address: str) -> bool:
    """Whether the gateway has found the stub."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/health", timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
