"""A host of its own on this machine: a real Docker engine in a network namespace, the real gateway, and a STUB of the engine.

Nothing here meets the demo: containers, networks, ports and the folder are the namespace's own, so that runs may be killed by the
dozen, and Docker restarted. The stub's image is made of the Python that runs the tests. Needs root and the gateway's image.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import docker
from ansible.module_utils.llm.base.names import GATEWAY_IMAGE
from ansible.module_utils.llm.host.read import COMPOSE_HASH
from ansible.module_utils.llm.plan import compose

from tests import catalogs
from tests.e2e import demo
from tests.e2e.demo import CHECKOUT, Run, read_recap
from tests.faults.stub.engine_modules import LIBRARY

IMAGE = "llm-stub-engine:1"
SERVICE = "stub"
PORT = 5010
KEY = "sk-stub-0123456789abcdef0123456789abcdef"
LONGEST = 900  # seconds after which a hanging run is ended; no test measures time
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
DECLARED = {
    "image": SERVICE,
    "model": SERVICE,
    "gpus": [],
    "port": PORT,
    "status": "active",
    "args": {"max-model-len": 1024},
    "limits": {"memory": "256m"},
    "drain": 120,
    # A stub's speed says how busy the machine is.
    "smoke": {"question": "What is the capital of France?", "answer": "Paris", "slowest": 0},
}
# Times, and what happened on the way.
VOLATILE = {
    "calibration",
    "history",
    "diagnostics",
    "preflight",
    "lease.json",
    "verdict.json",
    "events.jsonl",
    "metrics.prom",
    ".metrics.prom",
    "state.json",
}
# Made of chance once, on the host: whole files, and keys in others.
RANDOM = {"ca.key", "ca.pem", "door.pem", "engine-keys", "loaded"}
RANDOM_KEY = re.compile(rb"sk-[\w-]{43}")


class StubHost:
    """See the module's text."""

    service = model = image = SERVICE
    declared: Mapping[str, Any] = DECLARED
    long = 100_000  # tokens of a stream that is still going on whenever it is looked at

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.root = folder, folder / "llm"
        self.namespace = f"llm-{name}-{os.getpid()}"
        self.socket = folder / "docker.sock"
        self.inventory = folder / "inventory"
        self.client: Any = None
        self.engine: subprocess.Popen[bytes] | None = None

    # -----------------------------------------------------------------------------------------------------------------
    # Docker.

    @contextlib.contextmanager
    def up(self, disk_gib: int = 0) -> Iterator[Self]:
        """The host, for the time of a with block; nothing of it is left. disk_gib: of a file system for Docker's data alone."""
        data = self.folder / "docker"
        data.mkdir()
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        try:
            if disk_gib:
                disk = self.folder / "disk.img"
                subprocess.run(["truncate", f"--size={disk_gib}G", str(disk)], check=True)
                subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
                subprocess.run(["mount", "-o", "loop", str(disk), str(data)], check=True)
            self._inside(["ip", "link", "set", "lo", "up"])
            self.start_docker()
            self.copy(GATEWAY_IMAGE)
            self.load_engine()
            self._declare()
            yield self
        finally:
            if self.client:
                with contextlib.suppress(Exception):
                    self.reset()
            self.stop_docker()
            for mount in sorted(mounts(self.folder), reverse=True):
                subprocess.run(["umount", "--lazy", mount], check=False)
            subprocess.run(["ip", "netns", "delete", self.namespace], check=True)
            shutil.rmtree(self.folder / "docker", ignore_errors=True)
            (self.folder / "disk.img").unlink(missing_ok=True)

    def copy(self, image: str) -> None:
        """Copy an image of the demo from this machine's own Docker."""
        reference = compose.image_ref(catalogs.declared("demo").images[image])
        with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as saved:
            self._docker("load", stdin=saved.stdout)
        assert saved.returncode == 0, f"{reference} is not on this machine: deploy the demo first"

    def load_engine(self) -> None:
        """Make the stub's image."""
        environment = "PATH=/usr/local/bin:/usr/bin:/bin"
        self._docker("import", "--change", f"ENV {environment}", "-", IMAGE, text=stub_image())

    def start_docker(self) -> None:
        """Start the engine, and wait until it answers."""
        data, names = self.folder / "docker", self.namespace
        command = ["dockerd", "--host", f"unix://{self.socket}", "--data-root", str(data), "--live-restore"]
        command += ["--exec-root", str(self.folder / "run"), "--pidfile", str(self.folder / "docker.pid")]
        command += ["--containerd-namespace", names, "--containerd-plugins-namespace", f"{names}-plugins"]
        command += ["--cgroup-parent", f"/{names}", "--config-file", str(self.folder / "daemon.json")]
        (self.folder / "daemon.json").write_text("{}\n", encoding="utf-8")
        with (self.folder / "docker.log").open("ab") as log:
            self.engine = subprocess.Popen(self._entered(command), stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        self.client = docker.DockerClient(base_url=f"unix://{self.socket}", version="1.41")
        while True:
            try:
                self.client.ping()
                break
            except Exception:  # noqa: BLE001 - of several libraries, while it starts
                if self.engine.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "docker.log").read_text()[-3000:]) from None
                time.sleep(0.1)

    def stop_docker(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the engine; containers go on, as with the live-restore that the project sets."""
        if self.engine:
            self.engine.send_signal(how)
            self.engine.wait(60)
            self.engine = None

    def power_off(self) -> None:
        """Kill the engine and every process of its containers, and clear what does not outlive a machine's power."""
        pids = [c.attrs["State"]["Pid"] for c in self.client.containers.list()]
        pids += [_parent(pid) for pid in pids]
        self.stop_docker(signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            pids.append(int((self.folder / "run/containerd/containerd.pid").read_text(encoding="utf-8")))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
            assert time.monotonic() < end, pids
            time.sleep(0.05)
        for mount in sorted(mounts(self.folder), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder / "run")
        (self.folder / "docker.pid").unlink(missing_ok=True)

    def reset(self) -> None:
        """Remove all that was deployed."""
        for container in self.client.containers.list(all=True):
            container.remove(force=True)
        for network in self.client.networks.list():
            if network.name.startswith("llm"):
                network.remove()
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        # Its own environment would come from the network: a stand-in with the packages of the one that runs the tests.
        python = self.root / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        lock = (CHECKOUT / "roles/host_tools/files/requirements.lock").read_bytes()
        (self.root / "venv/.lock-sha256").write_text(f"{hashlib.sha256(lock).hexdigest()}\n")

    def _entered(self, command: list[str]) -> list[str]:
        # Not `ip netns exec`, which hides the control groups.
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def _inside(self, command: list[str]) -> None:
        subprocess.run(self._entered(command), check=True)

    def _docker(self, *arguments: str, stdin: Any = None, text: bytes | None = None) -> None:
        command = ["docker", "--host", f"unix://{self.socket}", *arguments]
        subprocess.run(command, stdin=stdin, input=text, check=True, stdout=subprocess.DEVNULL)

    # -----------------------------------------------------------------------------------------------------------------
    # Runs.

    def catalogs(self) -> dict[str, Any]:
        """What the host's catalogs have of their own: the stub as an engine, and a model that it does not read."""
        model = self.folder / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
        header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        catalog = catalogs.read("group_vars/all/images.yml")["llm_images"]["vllm-cpu"]
        return {
            "llm_images_custom": {
                SERVICE: {**{k: catalog[k] for k in ("accelerator", "engine", "accept")}, "sources": [{"pull": IMAGE}]}
            },
            "llm_models_custom": {SERVICE: {"sources": [{"path": str(model)}], "size_gib": 0.001, "context": 2048}},
        }

    def _declare(self) -> None:
        declared = {
            "llm_accelerator": "cpu",
            "llm_root": str(self.root),
            "llm_host_services": [self.service],
            "llm_gateway": {"wait": 1},
            "llm_service_keys": {self.service: KEY},
            **self.catalogs(),
            "llm_services_custom": {self.service: self.declared},
        }
        (self.inventory / "host_vars").mkdir(parents=True)
        shutil.copy(CHECKOUT / "inventory/demo/hosts.yml", self.inventory)
        (self.inventory / "host_vars/localhost.yml").write_text(json.dumps(declared))
        self._clear()

    def run(self, *arguments: str, changes: Mapping[str, Any] | None = None, kill_after: int = 0) -> Run:
        """Run a playbook on it. changes: to the service's declaration. kill_after: so many tasks, as in plugins/kill_after.py."""
        report = self.folder / "report"
        more = ["-i", str(self.inventory), "-e", f"llm_report_dir={report}"]
        if changes:
            more += ["-e", json.dumps({"llm_services_custom": {self.service: {**self.declared, **changes}}})]
        self.ended = self.folder / "ended"
        self.ended.unlink(missing_ok=True)
        ours = {n: v for n, v in os.environ.items() if not n.startswith(("ANSIBLE_", "LLM_", "DOCKER_"))}
        ours |= {
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": f"{CHECKOUT / 'callback_plugins'}:{CHECKOUT / 'tests/faults/plugins'}",
            "ANSIBLE_CALLBACKS_ENABLED": "llm_progress,kill_after",
            "LLM_PROGRESS": "0",
            "KILL_AFTER_FILE": str(self.ended),
            "KILL_AFTER_TASKS": str(kill_after),
            "DOCKER_HOST": f"unix://{self.socket}",
        }
        playbook = str(CHECKOUT / ".venv/bin/ansible-playbook")
        done = subprocess.run(
            self._entered([playbook, *arguments, *more]),
            cwd=CHECKOUT,
            env=ours,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
            start_new_session=True,  # a process group of its own, which is killed as a whole
        )
        return Run(arguments, done.returncode, done.stdout, read_recap(done.stdout), report)

    def ask(self, tokens: int = 0, address: str = "127.0.0.1") -> subprocess.Popen[str]:
        """A client that asks through the gateway; see client.py. tokens: of a stream that it reads; 0 is one short answer."""
        program = str(Path(__file__).parent / "client.py")
        command = [sys.executable, program, f"http://{address}:{PORT}/v1", KEY, self.model, str(tokens)]
        return subprocess.Popen(self._entered(command), stdout=subprocess.PIPE, text=True)

    def end_stream(self, container: Any) -> None:
        """Have the stub's long stream come to its end."""
        container.kill("SIGUSR1")

    def load(self, connections: int, a_second: int, least: int) -> subprocess.Popen[str]:
        """Clients that ask all the time through the gateway; see load.py."""
        program = str(Path(__file__).parent / "load.py")
        command = [sys.executable, program, str(PORT), KEY, str(connections), str(a_second), str(least)]
        return subprocess.Popen(self._entered(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def status(self, address: str = "127.0.0.1") -> int:
        """HTTP status of one question through the gateway, 0 where nothing answers."""
        return self.answer(address)[0]

    def answer(self, address: str = "127.0.0.1") -> tuple[int, str]:
        """The same, and what an error says."""
        out, _ = self.ask(address=address).communicate(timeout=120)
        last = json.loads(out.splitlines()[-1])
        return last["status"], last["said"]

    # -----------------------------------------------------------------------------------------------------------------
    # What is there.

    def containers(self) -> dict[str, Any]:
        """Each container by name: its state, labels, image and command."""
        found = {}
        for container in self.client.containers.list(all=True):
            config = container.attrs["Config"]
            found[container.name] = {
                "state": container.status,
                "image": container.attrs["Image"],
                "labels": {k: v for k, v in config["Labels"].items() if k.startswith("llm.") or k == COMPOSE_HASH},
                "command": config["Cmd"],
            }
        return found

    def files(self) -> dict[str, Any]:
        """Mode, owner and content of every file; of large ones a digest, of caches only whose they are."""
        found: dict[str, Any] = {}
        for path in sorted(self.root.rglob("*")):
            parts = path.relative_to(self.root).parts
            if VOLATILE & {*parts} or (parts[0] == "cache" and len(parts) > 2):
                continue
            stat = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            if len(content) > 2**20:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.name in RANDOM:
                content = b"made" if content else b""
            elif isinstance(content, bytes):
                content = RANDOM_KEY.sub(b"sk-made", content)
            found[str(path.relative_to(self.root))] = (oct(stat.st_mode), stat.st_uid, content)
        return found

    def state(self) -> dict[str, Any]:
        """All that a run is there to bring about: containers, networks, and files (releases, gateway, models, state)."""
        networks = {n.name: n.attrs["Internal"] for n in self.client.networks.list() if n.name.startswith("llm")}
        return {"networks": networks, **self.containers(), **self.files()}


class RealHost(StubHost):
    """The same with the REAL engine of the demo and its model, of both of which it gets a copy.

    The engine may write to a folder, so that two releases never run side by side: an upgrade stops what serves first.
    """

    service, model, image = demo.SERVICE, demo.MODEL, "vllm-cpu"
    long = 2000
    declared: Mapping[str, Any] = {
        "args": {"max-model-len": 4096},
        "limits": {"memory": "6g"},
        "warmup": {"prompt_tokens": [50]},
        "drain": 120,
    }

    def load_engine(self) -> None:
        """Copy the demo's: minutes, and 4 GB."""
        self.copy("vllm-cpu")

    def catalogs(self) -> dict[str, Any]:
        """The model's files are where the demo has them."""
        written = self.folder / "written"
        written.mkdir()
        self.declared = {**self.declared, "volumes": [f"{written}:/written"]}
        return {"llm_models_custom": {self.model: {"sources": [{"path": str(demo.model_folder())}]}}}

    def end_stream(self, container: Any) -> None:
        """Nothing to do: it ends by itself."""


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two states differ in: {name: (wanted, found)}."""
    names = {*wanted, *found}
    return {n: (wanted.get(n), found.get(n)) for n in sorted(names) if wanted.get(n) != found.get(n)}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def mounts(folder: Path) -> list[str]:
    """Mount points below a folder."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


def stub_image() -> bytes:
    """Tar file of an image: this Python with its standard library, the shared objects it loads, and the stub. About 50 MB."""
    binary = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    objects = [binary, *library.glob("lib-dynload/*.so")]
    listed = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=True).stdout
    needed = {w for line in listed.splitlines() if line.startswith("\t") for w in line.split() if w.startswith("/")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(place: str, content: bytes, mode: int = 0o755) -> None:
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))

        folders = {str(p) for place in [*needed, str(binary), str(library)] for p in Path(place).parents} - {"/"}
        for folder in sorted(folders | {"/tmp", "/usr/local/bin", "/usr/bin"}):
            entry = tarfile.TarInfo(folder.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "/tmp" else 0o755
            tar.addfile(entry)
        for place in sorted(needed):
            add(place, Path(place).read_bytes())
        add(str(binary), binary.read_bytes())
        for path in library.rglob("*"):
            skipped = {"test", "tests", "site-packages", "__pycache__", "idlelib", "ensurepip", "lib2to3", "tkinter"}
            if path.is_file() and not skipped & {*path.relative_to(library).parts} and path.suffix in (".py", ".so"):
                add(str(path), path.read_bytes())
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(binary)
        if str(binary) != "/usr/bin/python3":
            tar.addfile(link)
        add("/usr/local/bin/vllm", (catalogs.ROOT / "tests/stub/engine.py").read_bytes())
        for name, text in LIBRARY.items():
            add(f"{library}/vllm/{name}.py", text.encode(), 0o644)
    return buffer.getvalue()
