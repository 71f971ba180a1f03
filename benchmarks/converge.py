#!/usr/bin/env python3
"""What an unchanged host costs: site.yml and its stage `services` against a floor, for 7 and for 50 services.

Usage: benchmarks/converge.py [--rounds N] [--services N ...]. The last line is one JSON object.

The project's folder is a real one in a temporary place, made as the plan wants it; Ansible, the plan and llm_host_facts are the
real ones. Docker's answers come from a STUB of its API on a socket of its own, which lists STUB containers that all run as
declared: fifty engines don't fit here, and this machine's own deployment stays out of it. Rounds of all runs are interleaved.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import socketserver
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import ansible.module_utils

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))
sys.path.insert(0, str(PROJECT))

from ansible.module_utils.llm.base import files, names  # noqa: E402 - the path comes first
from ansible.module_utils.llm.base.names import GATEWAY_IMAGE  # noqa: E402 - the path comes first
from ansible.module_utils.llm.declare import parse  # noqa: E402 - the path comes first
from ansible.module_utils.llm.gateway import host as gateway_host  # noqa: E402 - the path comes first
from ansible.module_utils.llm.gateway import keys as gateway_keys  # noqa: E402
from ansible.module_utils.llm.host import read as read_host  # noqa: E402 - the path comes first
from ansible.module_utils.llm.models import artifacts  # noqa: E402 - the path comes first
from ansible.module_utils.llm.plan import changes, compose, handover, supervisor  # noqa: E402 - the path comes first
from ansible.module_utils.llm.plan import gateway as gateway_plan  # noqa: E402

from tests import catalogs  # noqa: E402
from tests.hosts import facts  # noqa: E402

# Of the plan's two files called llm_plan the one that acts: it writes the text of compose files.
_PLAN = importlib.util.spec_from_file_location("llm_plan_action", PROJECT / "action_plugins/llm_plan.py")
assert _PLAN and _PLAN.loader  # noqa: S101 - the file is part of the project
llm_plan: Any = importlib.util.module_from_spec(_PLAN)
_PLAN.loader.exec_module(llm_plan)

HERE = PROJECT / "benchmarks"
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
FIRST_PORT = 15001
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


class StubDocker(BaseHTTPRequestHandler):
    """STUB of Docker's API: lists what the benchmark says is there."""

    answers: Mapping[str, Any] = {}

    def do_GET(self) -> None:
        """Answer one of the lists."""
        known = self.answers.get(self.path.partition("?")[0])
        body = json.dumps({"message": f"the stub knows no {self.path}"} if known is None else known).encode()
        self.send_response(404 if known is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """A unix socket's clients have no address."""
        return "local"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(socketserver.ThreadingUnixStreamServer):
    """The stub's server on a unix socket."""

    daemon_threads = True


class Host:
    """A folder that looks like a converged host with so many services."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.root = folder, count, folder / "llm"
        self.inventory = folder / "inventory"
        self.names = [f"stub-{n:02}" for n in range(1, count + 1)]
        self.host: dict[str, Any] = {
            "accelerator": "cpu",
            "root": str(self.root),
            "host_services": self.names,
            "gateway": {"https_port": 0, "http_port": 0},  # a certificate would have to be issued first
            "models_custom": {
                name: {"sources": [{"path": f"/nowhere/{name}"}], "size_gib": 0.1, "context": 2048}
                for name in self.names
            },
            "services_custom": {
                name: {
                    "image": "vllm-cpu",
                    "model": name,
                    "served_model_name": name,
                    "gpus": [],
                    "port": FIRST_PORT + n,
                    "status": "active",
                    "args": {"max-model-len": 1024, "enforce-eager": True},
                }
                for n, name in enumerate(self.names)
            },
        }
        own = {key: self.host[key] for key in ("root", "host_services", "accelerator", "gateway")}
        raw = catalogs.raw("demo", **own)
        for kind in ("models", "services"):
            raw[kind] = parse.merge(raw[kind], self.host[f"{kind}_custom"])
        declared, findings = parse.parse(raw)
        if declared is None:
            raise SystemExit("\n".join(f.text() for f in findings))
        self.declared = declared
        self._write()

    def _write(self) -> None:
        (self.inventory / "host_vars").mkdir(parents=True)
        shutil.copy(PROJECT / "inventory/demo/hosts.yml", self.inventory)
        settings = {f"llm_{key}": value for key, value in self.host.items()}
        (self.inventory / "host_vars/localhost.yml").write_text(json.dumps(settings))
        models = {}
        for name in self.names:
            place = Path(compose.model_dir(self.declared.settings, self.declared.models[name]))
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(CONFIG))
            header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
            (place / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
            manifest = artifacts.make_manifest(place, {"stub": name})
            (place / artifacts.MANIFEST).write_text(artifacts.manifest_text(manifest))
            models[name] = artifacts.look(place)
        references = {compose.image_ref(self.declared.images[i]) for i in ("vllm-cpu", GATEWAY_IMAGE)}
        images = {reference: f"sha256:{n:064x}" for n, reference in enumerate(sorted(references), 1)}
        rendered = changes.releases(self.declared, facts(images=images, models=models), {})
        containers = [self._service(name, release) for name, release in rendered.items()]
        (self.root / "state").mkdir()
        python = self.root / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        lock = files.read(PROJECT / "roles/host_tools/files/requirements.lock")
        (self.root / "venv/.lock-sha256").write_text(_sha256(lock) + "\n")
        gateway = {"id": "e" * 64, "image": images[compose.image_ref(self.declared.images[GATEWAY_IMAGE])]}
        containers.append(
            {
                "Id": gateway["id"],
                "Names": [f"/{names.GATEWAY}"],
                "ImageID": gateway["image"],
                "State": "running",
                "Labels": {"llm.gateway": "true"},
                "Ports": [{"PublicPort": FIRST_PORT + n} for n in range(self.count)],
            }
        )
        self.answers: dict[str, Any] = {
            "/version": {"Version": "26.1.5"},
            "/info": {"DockerRootDir": str(self.folder), "ContainersRunning": len(containers)},
            "/containers/json": containers,
            "/images/json": [{"Id": i, "RepoTags": [r], "Size": 1} for r, i in images.items()],
            "/networks": [{"Name": n, "Internal": internal} for n, internal in names.NETWORKS.items()],
        }
        routes = changes.routes(self.declared, facts(), {s: r.hash for s, r in rendered.items()})
        watched = supervisor.plan(self.declared)
        self.given = {
            "rendered_file": str(self.folder / "rendered.json"),
            "gateway_routes": routes,
            "gateway_settings": gateway_plan.settings(self.declared),
            "gateway_image": compose.image_ref(self.declared.images[GATEWAY_IMAGE]),
            "gateway_root": str(self.root),
            "gateway_found": {"id": gateway["id"][:12]},
            "engine_supervisor_image": watched["image"],
            "engine_supervisor_config": watched["config"],
            "engine_supervisor_root": str(self.root),
            "engine_supervisor_systemd": read_host.system()["systemd"],
        }

    def _write_rendered(self) -> None:
        """Files of gateway and supervisor, and the supervisor's container."""
        rendered = json.loads((self.folder / "rendered.json").read_text())
        for name, part in rendered.items():
            for file, content in part["files"].items():
                files.write(self.root / name / file, content)
        keys = gateway_keys.key_map(
            gateway_host.clients(self.root / "gateway"), gateway_host.service_keys(self.root), time.time()
        )
        loaded = [rendered["gateway"]["loaded"], gateway_host.digest(keys), "none"]
        files.write(self.root / "gateway/loaded", " ".join(loaded) + "\n")
        self.answers["/containers/json"].append(
            {
                "Id": "d" * 64,
                "Names": [f"/{names.SUPERVISOR}"],
                "ImageID": "sha256:" + "0" * 64,
                "State": "running",
                "Labels": {"llm.supervisor": rendered["supervisor"]["loaded"]},
                "Ports": [],
            }
        )

    def _service(self, name: str, release: compose.Release) -> dict[str, Any]:
        job = handover.service(self.declared, release, llm_plan._compose_text)
        folder, place = Path(job["service_folder"]), Path(job["folder"])
        for file, content in job["files"].items():
            files.write(place / file, content)
        sums = {file: _sha256(content) for file, content in job["files"].items()}
        files.write(place / "release.json", json.dumps({"facts": release.facts, "files": sums}))
        files.write(place / "verdict.json", '{"ok": true}')
        files.write(Path(job["key_file"]), "sk-stub\n", 0o400)
        files.link(folder / "current", f"releases/{release.hash}")
        return {
            "Id": _sha256(name),
            "Names": [f"/{release.container}"],
            "ImageID": release.facts["image"]["id"],
            "State": "running",
            "Status": "Up (stub)",
            "Labels": {"llm.service": name, "llm.release": release.hash},
            "Ports": [],
        }

    @contextmanager
    def served(self) -> Iterator[dict[str, str]]:
        """Environment in which the stub is Docker; files of gateway and supervisor are rendered by their roles' own variables."""
        path = str(self.folder / "docker.sock")
        handler = type("Stub", (StubDocker,), {"answers": self.answers})
        with Server(path, handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ours = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "LLM_"))}
            environment = {**ours, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "DOCKER_HOST": f"unix://{path}"}
            given = ["-e", json.dumps(self.given)]
            run([str(HERE / "role_files.yml"), "-i", str(self.inventory), *given], environment)
            self._write_rendered()
            yield environment
            server.shutdown()

    def runs(self) -> dict[str, list[str]]:
        """Arguments of each run that is measured."""
        inventory = ["-i", str(self.inventory), "-e", f"llm_report_dir={self.folder}/reports"]
        found = {
            "services": [str(PROJECT / "site.yml"), *inventory, "--tags", "services"],
            "site": [str(PROJECT / "site.yml"), *inventory],
        }
        if self.count <= 7:
            found["naive"] = [
                str(HERE / "naive/site.yml"),
                *inventory,
                "-e",
                json.dumps({"naive_root": str(self.root)}),
            ]
        return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def run(arguments: list[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Wall and processor seconds, processes of modules and workers, and changes of one run; ends the benchmark when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        timings = Path(folder) / "timings.json"
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [PLAYBOOK, *arguments],
            cwd=PROJECT,
            env={**environment, "LLM_TIMINGS_FILE": str(timings)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{arguments} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        report = json.loads(timings.read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    changed = sum(int(part.split()[0]) for part in done.stdout.split("changed=")[1:])
    return {"wall": wall, "cpu": cpu, "modules": report["modules"], "workers": report["workers"], "changed": changed}


def spread(values: list[float]) -> str:
    """Median with the smallest and the largest value."""
    return f"{statistics.median(values):6.2f}  ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--services", type=int, nargs="+", default=[7, 50])
    given = parser.parse_args()
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-converge-") as top, ExitStack() as stubs:
        hosts = [Host(Path(top) / str(count), count) for count in given.services]
        environments = [stubs.enter_context(host.served()) for host in hosts]
        for number in range(given.rounds + 1):  # the first fills caches and is not counted
            for host, environment in zip(hosts, environments, strict=True):
                floor = {"floor": [str(HERE / "floor.yml"), "-i", str(host.inventory)]} if host is hosts[0] else {}
                for name, arguments in {**floor, **host.runs()}.items():
                    found = run(arguments, environment)
                    if found["changed"] and name != "naive":
                        raise SystemExit(f"{name} with {host.count} services changed something: not converged")
                    if number:
                        measured.setdefault(name if name == "floor" else f"{name} {host.count}", []).append(found)
    print(f"{'run':<14}wall s, {given.rounds} rounds         processor s                 modules")
    for name, values in measured.items():
        columns = [spread([v[part] for v in values]) for part in ("wall", "cpu")]
        print(f"{name:<14}{columns[0]:<28}{columns[1]:<28}{values[0]['modules']:.0f}")
    middle = {name: statistics.median(v["wall"] for v in values) for name, values in measured.items()}
    cpu = {name: statistics.median(v["cpu"] for v in values) for name, values in measured.items()}
    result: dict[str, Any] = {"floor": round(middle["floor"], 2)}
    for count in given.services:
        result[str(count)] = {
            "ratio": round(middle[f"services {count}"] / middle["floor"], 2),
            "site_ratio": round(middle[f"site {count}"] / middle["floor"], 2),
            "cpu_ratio": round(cpu[f"services {count}"] / cpu["floor"], 2),
            "module_processes": int(measured[f"site {count}"][0]["modules"]),
        }
    first = result[str(given.services[0])]
    result |= {key: first[key] for key in ("ratio", "site_ratio", "module_processes")}
    if f"naive {given.services[0]}" in middle:
        result["naive_ratio"] = round(middle[f"naive {given.services[0]}"] / middle["floor"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
