"""The demo on this machine: its playbooks, its Docker engine, its service. Every test is given a converged host.

The tests deploy for real, stop and break the service `micro-cpu`, and leave it as they found it. They need root, and
refuse to start beside a deployment that is not the demo's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import docker
import openai
import pytest
from ansible.module_utils.llm import compose

from tests import catalogs

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = Path("/opt/llm")
SERVICE = "micro-cpu"
MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
ENDPOINT = "http://127.0.0.1:5010/v1"
KEY_FILE = ROOT / "keys" / SERVICE
KEY_SHAPE = re.compile(r"sk-[A-Za-z0-9_-]{20,}")
CONTAINERS = ("llm.service", "llm.gateway")  # labels of what this project runs
LONGEST = 900  # seconds after which a hanging playbook is ended; no test measures time

_RECAP = re.compile(r"^(?P<host>\S+)\s+: (?P<counts>(?:\w+=\d+\s*)+)$", re.MULTILINE)
_TASK = re.compile(r"^TASK \[(?P<name>.*?)\] \*+$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of a playbook. `stdout` holds what a user sees, standard error included; `recap`: host -> counts."""

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
    def diffs(self) -> str:
        """The diffs of the output: from the header of one to the result of its task."""
        return "\n".join(re.findall(r"^--- .*?(?=^\S+: \[|^TASK |^PLAY )", self.stdout, re.MULTILINE | re.DOTALL))

    def plan(self) -> dict[str, Any]:
        """The run's plan.json."""
        found: dict[str, Any] = json.loads((self.report / "plan.json").read_text(encoding="utf-8"))
        return found

    def json(self) -> str:
        """The recap as JSON, for messages of tests."""
        return json.dumps({"args": self.args, "rc": self.rc, "recap": self.recap})

    def passed(self) -> Run:
        """Itself, after a check that it went well; a failure shows the end of the output."""
        assert self.rc == 0 and self.failed == 0, f"{self.json()}\n{self.stdout[-6000:]}"
        return self

    def refused(self) -> Run:
        """Itself, after a check that it failed, and in words meant for users."""
        assert self.rc != 0 and self.failed, f"{self.json()}\n{self.stdout[-6000:]}"
        for leaked in ("Traceback (most recent call last)", "MODULE FAILURE", "<<< caused by >>>"):
            assert leaked not in self.stdout, self.stdout[-6000:]
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


def services(**changes: Any) -> str:
    """An argument of `-e` that changes the service's declaration."""
    return json.dumps({"llm_services_custom": {SERVICE: changes}})


@pytest.fixture(scope="session")
def playbook(tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Run playbooks; each run gets a report folder of its own."""
    # What the person who runs the tests has set must not decide what they see.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "LLM_", "DOCKER_"))}
    ours |= {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "LLM_PROGRESS": "0",
        "COLUMNS": "200",
    }

    def run(*args: str, env: Mapping[str, str] | None = None) -> Run:
        report = tmp_path_factory.mktemp("report")
        command = [str(CHECKOUT / ".venv/bin/ansible-playbook"), *args, "-e", f"llm_report_dir={report}"]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**ours, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        return Run(args, done.returncode, done.stdout, read_recap(done.stdout), report)

    return run


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The machine's own Docker engine."""
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    yield client
    client.close()


class Machine:
    """What is deployed here, read without the project's own code."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.docker = client

    @property
    def release(self) -> str:
        """Hash of the current release."""
        return (ROOT / "services" / SERVICE / "current").readlink().name

    @property
    def folder(self) -> Path:
        """Folder of the current release."""
        return ROOT / "services" / SERVICE / "releases" / self.release

    @property
    def key(self) -> str:
        return KEY_FILE.read_text(encoding="utf-8").strip()

    def engines(self) -> list[Any]:
        """Containers of the service, running or not."""
        return list(self.docker.containers.list(all=True, filters={"label": f"llm.service={SERVICE}"}))

    def engine(self) -> Any:
        """The service's only container."""
        (found,) = self.engines()
        return found

    def gateway(self) -> Any:
        return self.docker.containers.get("llm-gateway")

    def containers(self) -> dict[str, tuple[str, str, str]]:
        """Id, status and time of start of every container of the project, by name."""
        found = [c for label in CONTAINERS for c in self.docker.containers.list(all=True, filters={"label": label})]
        return {c.name: (c.id, c.status, c.attrs["State"]["StartedAt"]) for c in found}

    def files(self) -> dict[str, tuple[int, int, int, str]]:
        """Mode, owner, size and content (or time) of what is deployed; caches aside, which engines write to."""
        found = {}
        for top in sorted(p for p in ROOT.iterdir() if p.name not in ("cache", "venv")):
            for path in (top, *sorted(top.rglob("*"))):
                stat = path.lstat()
                if path.is_symlink():
                    content = str(path.readlink())
                elif path.is_file() and stat.st_size < 2**20:
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    content = str(stat.st_mtime_ns) if path.is_file() else ""
                found[str(path)] = (stat.st_mode, stat.st_uid, stat.st_size if path.is_file() else 0, content)
        return found

    def snapshot(self) -> dict[str, Any]:
        """All of it, to be compared before and after."""
        return {"containers": self.containers(), "files": self.files()}

    def client(self, key: str | None = None) -> openai.OpenAI:
        """A client's view through the gateway, with the service's key or another one."""
        # One at a time, without second tries: what the first request gets is what is tested.
        return openai.OpenAI(base_url=ENDPOINT, api_key=key or self.key, max_retries=0, timeout=120)

    def answer(self) -> str:
        """The service's answer to the demo's question."""
        completion = self.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=64
        )
        return completion.choices[0].message.content or ""


@pytest.fixture(scope="session")
def machine(docker_client: docker.DockerClient) -> Machine:
    """This machine."""
    return Machine(docker_client)


@pytest.fixture(scope="session")
def converged(playbook: Playbook, machine: Machine) -> Run:
    """The demo's site, deployed once for the session."""
    assert os.geteuid() == 0, "the e2e tests deploy to this machine: run them as root"
    strangers = {c.name for c in machine.docker.containers.list(filters={"label": "llm.service"})} - {
        c.name for c in machine.engines()
    }
    assert not strangers, f"{', '.join(sorted(strangers))} is deployed here, which is not the demo: test elsewhere"
    return playbook("-i", "inventory/demo", "site.yml").passed()


@pytest.fixture
def untouched(converged: Run, machine: Machine) -> Iterator[None]:
    """Fail the test when it leaves any trace on what is deployed."""
    before = machine.snapshot()
    yield
    assert machine.snapshot() == before


@pytest.fixture
def restored(converged: Run, playbook: Playbook, machine: Machine) -> Iterator[None]:
    """For tests that break the service: afterwards it is as it was, also when the test has failed halfway."""
    release = machine.release
    folders = {p.name for p in (ROOT / "services" / SERVICE / "releases").iterdir()}
    yield
    again = playbook("site.yml")
    # Releases that failed are kept to be looked at, until the next one is current.
    for place in (ROOT / "services" / SERVICE / "releases").iterdir():
        if place.name not in folders | {machine.release}:
            shutil.rmtree(place)
    assert (again.rc, machine.release) == (0, release), again.stdout[-6000:]


def status_of(url: str, headers: Mapping[str, str] | None = None, body: Any = None) -> tuple[int, str]:
    """HTTP status and text of one request; 0 and the reason when nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@pytest.fixture
def inventory(tmp_path: Path) -> Callable[[str], list[str]]:
    """The demo's inventory with a file of one's own: gives the arguments that choose it.

    The text is the file host_vars/localhost/mine.yml, so that messages have a file and a line to name.
    """

    def write(text: str) -> list[str]:
        folder = tmp_path / "inventory"
        own = folder / "host_vars" / "localhost"
        own.mkdir(parents=True)
        shutil.copy(CHECKOUT / "inventory/demo/hosts.yml", folder / "hosts.yml")
        shutil.copy(CHECKOUT / "inventory/demo/host_vars/localhost.yml", own / "demo.yml")
        (own / "mine.yml").write_text(text, encoding="utf-8")
        return ["-i", str(folder)]

    return write


def model_folder() -> Path:
    """Folder of the demo's model."""
    declared = catalogs.declared("demo")
    return Path(compose.model_dir(declared.settings, declared.models[declared.services[SERVICE].model]))
