"""A boot and its speed are gates: role vllm_service's own tasks and real Docker, with a stub of an engine (tests/stub/engine.py).

The stub has a container, a network and folders of its own: what is deployed on this machine is not touched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import yaml
from ansible.module_utils.llm.engine import history
from ansible.module_utils.llm.plan import compose, deploy

from tests import catalogs
from tests.e2e.demo import CHECKOUT, Playbook, Run

pytestmark = pytest.mark.e2e

NAME, RELEASE, KEY = "stub-gated", "0123456789ab", "k-of-the-stub-engine"
UNREAD = (CHECKOUT / "tests/unit/data/engine/fail-cache-truncated.log").read_text(encoding="utf-8")  # of a real engine
PLAY = """
- name: What a release has to pass
  hosts: all
  gather_facts: false
  tasks:
    - name: Start and prove it
      ansible.builtin.include_role:
        name: vllm_service
        tasks_from: "{{ entry }}"
      vars:
        vllm_service_plan: "{{ stub_plan }}"
        vllm_service_python: "{{ stub_python }}"
        vllm_service_engine_uid: 0
        __vllm_service_gated: "{{ stub_plan }}"
        __vllm_service_timed: true
"""


@dataclass
class Stub:
    """A release of the stub, its folders, and runs of the gates over it."""

    place: Path
    playbook: Playbook
    client: docker.DockerClient
    slowest: float = 0.3

    @property
    def cache(self) -> Path:
        return self.place / "cache"

    def speeds(self) -> list[history.Speed]:
        return history.read(self.place / "history" / f"{NAME}-{RELEASE}.json")["speeds"]

    def gates(self) -> Run:
        plan = {
            "name": NAME,
            "release": RELEASE,
            "container": NAME,
            "folder": f"{self.place}/releases/{RELEASE}",
            "service_folder": str(self.place),
            "cache": str(self.cache),
            "boot_timeout": 60,
            "history_folder": f"{self.place}/history",
            "ask": deploy.ask(
                {
                    "served_model_name": "stub",
                    "smoke": {"question": "What is the capital of France?", "answer": "Paris", "slowest": self.slowest},
                }
            ),
        }
        given = {"stub_plan": plan, "stub_python": sys.executable, "entry": "gates.yml"}
        return self.playbook(str(self.place / "play.yml"), "-e", json.dumps(given))

    @property
    def file(self) -> Path:
        return self.place / "releases" / RELEASE / "compose.yml"

    def compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--project-name", NAME, "--file", str(self.file), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def container(self) -> str:
        return str(self.client.containers.get(NAME).attrs["State"]["StartedAt"])


@pytest.fixture
def stub(tmp_path: Path, playbook: Playbook, docker_client: docker.DockerClient) -> Iterator[Stub]:
    """The stub, running, with nothing known of it."""
    found = Stub(tmp_path, playbook, docker_client)
    folder = tmp_path / "releases" / RELEASE
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "client-key").write_text(KEY, encoding="utf-8")
    found.cache.mkdir()
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    engine = {
        "image": compose.image_ref(catalogs.declared("demo").images["vllm-cpu"]),
        "container_name": NAME,
        "entrypoint": ["python3", "/stub.py", "chat"],
        "environment": {"STUB_CACHE": "/cache", "STUB_KEY": KEY},
        "volumes": [f"{CHECKOUT}/tests/stub/engine.py:/stub.py:ro", f"{found.cache}:/cache"],
        "init": True,
    }
    found.file.write_text(yaml.safe_dump({"name": NAME, "services": {"engine": engine}}), encoding="utf-8")
    try:
        found.compose("up", "--detach", "--pull", "never")
        yield found
    finally:
        found.compose("down", "--timeout", "1")


def test_a_slow_release_boots_once_more_without_its_caches(stub: Stub) -> None:
    first = stub.gates().passed()
    assert len(stub.speeds()) == 1 and "caches may be damaged" not in first.text, "there was nothing to compare it with"
    assert len(list(stub.place.glob("*.aside"))) == 0
    started = stub.container()

    (stub.cache / "slow").touch()
    run = stub.gates().passed()
    run.says("caches may be damaged", "usual are", "Prove it with empty caches")
    assert (stub.place / "cache.aside" / "slow").exists() and not list(stub.cache.iterdir())
    assert stub.container() != started and len(stub.speeds()) == 2
    (kept,) = (stub.place / "diagnostics").iterdir()
    assert "tokens/s" in (kept / "cause.json").read_text(encoding="utf-8")

    # What was wrong with the caches is gone, and so a third run finds nothing to do.
    started = stub.container()
    stub.gates().passed()
    assert stub.container() == started


def test_a_release_that_cannot_read_its_caches_boots_once_more_without_them(stub: Stub) -> None:
    (stub.cache / "damaged").write_text(UNREAD, encoding="utf-8")
    stub.client.containers.get(NAME).restart(timeout=1)
    run = stub.gates().passed()
    run.says("caches may be damaged", "could not read its own compile cache", "Prove it with empty caches")
    assert (stub.place / "cache.aside" / "damaged").exists() and not list(stub.cache.iterdir())
    (kept,) = (stub.place / "diagnostics").iterdir()
    assert "compile cache" in (kept / "cause.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_does_not_boot_without_caches_either_does_not_pass(stub: Stub) -> None:
    # Another folder than the one that is set aside: the fault comes back with every start.
    other = stub.place / "other"
    other.mkdir()
    (other / "damaged").write_text(UNREAD, encoding="utf-8")
    stub.file.write_text(stub.file.read_text(encoding="utf-8").replace(f"{stub.cache}:", f"{other}:"), encoding="utf-8")
    stub.compose("up", "--detach")
    run = stub.gates().refused()
    run.says("Prove it with empty caches", "could not read its own compile cache")
    assert len(list((stub.place / "diagnostics").iterdir())) == 1, "it was tried once more, and not again"


def test_what_is_slow_without_caches_too_does_not_pass(stub: Stub) -> None:
    stub.gates().passed()
    file = stub.place / "history" / f"{NAME}-{RELEASE}.json"
    # So fast was it once, it is said; the stub is what it always was.
    file.write_text(json.dumps({"boots": [], "speeds": [{"at": 1, "tokens_per_second": 1e9, "ttft_ms": 1}]}))
    run = stub.gates().refused()
    run.says("or something else uses this machine", "Prove it with empty caches")
    assert [speed["tokens_per_second"] for speed in stub.speeds()] == [1e9]
    assert len(list((stub.place / "diagnostics").iterdir())) == 1, "it was tried once more, and not again"
