"""The demo of this machine as its tests see it: runs of playbooks, and what is deployed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import docker
import openai
from ansible.module_utils.llm.plan import compose

from tests import catalogs

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = Path("/opt/llm")
SERVICE = "micro-cpu"
MODEL = "smollm2-135m-instruct"
ENDPOINT = "http://127.0.0.1:5010/v1"
KEY_SHAPE = re.compile(r"sk-[A-Za-z0-9_-]{20,}")
# What the catalog knows of its answer, with a margin.
QUESTION, WORD = (catalogs.declared("demo").models[MODEL].smoke[key] for key in ("question", "answer"))
# A flag with which the model computes nonsense: it was trained with positions of another base, 100,000.
POSITIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}
CONTAINERS = ("llm.service", "llm.gateway")  # labels of what this project runs

_RECAP = re.compile(r"^(?P<host>\S+)\s+: (?P<counts>(?:\w+=\d+\s*)+)$", re.MULTILINE)
_TASK = re.compile(r"^TASK \[(?P<name>.*?)\] \*+$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of a playbook. `stdout`: what a user sees, standard error included; `recap`: host -> counts."""

    args: tuple[str, ...]
    rc: int
    stdout: str
    recap: Mapping[str, Mapping[str, int]]
    report: Path

    def count(self, what: str) -> int:
        """Sum of a count of the recap (ok, changed, failed, rescued, ...) over all hosts."""
        return sum(counts[what] for counts in self.recap.values())

    @property
    def changed(self) -> int:
        return self.count("changed")

    @property
    def failed(self) -> int:
        return self.count("failed") + self.count("unreachable")

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that were shown, in order; skipped ones are not."""
        return _TASK.findall(self.stdout)

    @property
    def text(self) -> str:
        """The output with all white space as single blanks, so that wrapped lines are found."""
        return " ".join(self.stdout.split())

    @property
    def shows_diff(self) -> bool:
        return re.search(r"^(---|\+\+\+) ", self.stdout, re.MULTILINE) is not None

    def json(self) -> str:
        """Arguments, exit code and recap, for messages of tests."""
        return json.dumps({"args": self.args, "rc": self.rc, "recap": self.recap})

    def passed(self) -> Run:
        """Itself, after a check that it went well; a failure shows the end of the output."""
        assert self.rc == 0 and self.recap and self.failed == 0, f"{self.json()}\n{self.stdout[-6000:]}"
        return self

    def refused(self) -> Run:
        """Itself, after a check that it failed, and said so in words meant for users."""
        assert self.rc != 0 and self.failed, f"{self.json()}\n{self.stdout[-6000:]}"
        for leaked in ("Traceback (most recent call last)", "MODULE FAILURE", "<<< caused by >>>"):
            assert leaked not in self.stdout, self.stdout[-6000:]
        return self

    def says(self, *words: str) -> Run:
        """Itself, after a check that the output holds all these words."""
        missing = [w for w in words if w not in self.text]
        assert not missing, f"{missing} not in:\n{self.stdout[-6000:]}"
        return self


class Playbook(Protocol):
    """Runs a playbook of this checkout: `playbook("site.yml", "--check", env={...})`."""

    def __call__(self, *args: str, env: Mapping[str, str] | None = None) -> Run: ...


def read_recap(output: str) -> dict[str, dict[str, int]]:
    """Counts of each host below PLAY RECAP; empty when the run did not get so far."""
    _, marker, below = output.partition("PLAY RECAP")
    rows = _RECAP.finditer(below) if marker else iter(())
    return {
        row["host"]: {name: int(count) for name, _, count in (pair.partition("=") for pair in row["counts"].split())}
        for row in rows
    }


def declare(**changes: Any) -> tuple[str, str]:
    """Arguments that change the service's declaration for one run."""
    return ("-e", json.dumps({"llm_services_custom": {SERVICE: changes}}))


class Machine:
    """What is deployed here, read without the project's own code."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.docker = client

    @property
    def service_folder(self) -> Path:
        return ROOT / "services" / SERVICE

    @property
    def release(self) -> str:
        """Hash of the current release."""
        return (self.service_folder / "current").readlink().name

    @property
    def compose_file(self) -> Path:
        """Compose file of the current release."""
        return self.service_folder / "releases" / self.release / "compose.yml"

    @property
    def key_file(self) -> Path:
        return ROOT / "keys" / SERVICE

    @property
    def key(self) -> str:
        return self.key_file.read_text(encoding="utf-8").strip()

    def engines(self) -> list[Any]:
        """Containers of the service, running or not."""
        return list(self.docker.containers.list(all=True, filters={"label": f"llm.service={SERVICE}"}))

    def engine(self) -> Any:
        """The service's only container."""
        (found,) = self.engines()
        return found

    def stop_docker(self) -> None:
        """End this machine's Docker engine; containers run on, and site.yml starts it."""
        if Path("/run/systemd/system").is_dir():
            subprocess.run(["systemctl", "stop", "docker.socket", "docker.service"], check=True)
            return
        pid = int(Path("/run/docker.pid").read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 60
        while Path(f"/proc/{pid}/exe").exists():
            assert time.monotonic() < end, pid
            time.sleep(0.05)

    def gateway(self) -> Any:
        return self.docker.containers.get("llm-gateway")

    def containers(self) -> dict[str, tuple[str, str, str]]:
        """Id, status and time of start of every container of the project, by name."""
        found = [c for label in CONTAINERS for c in self.docker.containers.list(all=True, filters={"label": label})]
        return {c.name: (c.id, c.status, c.attrs["State"]["StartedAt"]) for c in found}

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Mode, owner and content (of large files: size and time) of all that is deployed but caches, Python and supervisor.

        What happened on the way (who held the host, what an image accepted, times of boots, diagnostics, who asked what) is no
        state, and left out.
        """
        found = {}
        for top in sorted(p for p in ROOT.iterdir() if p.name not in ("cache", "venv", "supervisor")):
            for path in (top, *sorted(top.rglob("*"))):
                if {"history", "diagnostics", "preflight", "lease.json", "log"} & {*path.relative_to(top).parts}:
                    continue
                stat, content = path.lstat(), ""
                if path.is_symlink():
                    content = str(path.readlink())
                elif path.is_file():
                    small = stat.st_size < 2**20
                    content = _sha256(path) if small else f"{stat.st_size} {stat.st_mtime_ns}"
                found[str(path)] = (stat.st_mode, stat.st_uid, content)
        return found

    def snapshot(self) -> dict[str, Any]:
        """All of it, to be compared before and after."""
        return {"containers": self.containers(), "files": self.files()}

    def client(self, key: str | None = None) -> openai.OpenAI:
        """A client behind the gateway, with the service's key or another one; it tries once."""
        return openai.OpenAI(base_url=ENDPOINT, api_key=key or self.key, max_retries=0, timeout=120)

    def await_door(self) -> None:
        """Wait until the gateway has found the engine, which it looks for every other second."""
        end = time.monotonic() + 60
        while request(ENDPOINT.replace("/v1", "/health"))[0] != 200:
            assert time.monotonic() < end, "the gateway does not find the engine"
            time.sleep(0.2)

    def answer(self) -> str:
        """The service's answer to the demo's question."""
        completion = self.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=64
        )
        return completion.choices[0].message.content or ""


class Answer(NamedTuple):
    """What a client got. status: of HTTP, 0 when it was cut off. at: seconds since the epoch."""

    status: int
    text: str
    at: float


@contextmanager
def steady(machine: Machine) -> Iterator[list[Answer]]:
    """A client that asks the demo's question every few seconds: what came back.

    An engine's worker spins for a second after each request, and a second engine on the same processor then gets next to nothing.
    """
    answers: list[Answer] = []
    over = threading.Event()
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, "temperature": 0}
    key = machine.key

    def ask() -> None:
        while not over.wait(3):
            try:
                status, text = request(f"{ENDPOINT}/chat/completions", {"Authorization": f"Bearer {key}"}, body)
            except OSError as error:
                status, text = 0, str(error)
            answers.append(Answer(status, text, time.time()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request(url: str, headers: Mapping[str, str] | None = None, body: Any = None) -> tuple[int, str]:
    """HTTP status and text of one request."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def model_folder() -> Path:
    """Folder of the demo's model."""
    declared = catalogs.declared("demo")
    return Path(compose.model_dir(declared.settings, declared.models[declared.services[SERVICE].model]))


@contextmanager
def stand_in_hub(folder: Path, **data_sets: Path) -> Iterator[str]:
    """Address of the stand-in of scenario model_store_alternative, which has this folder as branch main of acme/tiny.

    data_sets: folders of data sets acme/NAME.
    """
    place = CHECKOUT / "molecule/model_store_alternative/files/stand_in_hub.py"
    found = importlib.util.spec_from_file_location("stand_in_hub", place)
    assert found is not None and found.loader is not None
    stand_in = importlib.util.module_from_spec(found)
    found.loader.exec_module(stand_in)
    server = stand_in.serve(0, {"main": folder, **{f"datasets/acme/{n}@main": f for n, f in data_sets.items()}})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
