"""Fixtures of the tests that deploy for real: they need root, Docker, and a machine that serves nothing but the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import docker
import pytest

from tests.e2e.demo import CHECKOUT, SERVICE, Machine, Playbook, Run, read_recap

LONGEST = 900  # seconds after which a hanging playbook is ended; no test measures time


@pytest.fixture(scope="session")
def playbook(tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Run playbooks, on the demo unless an inventory is given; each run gets a folder of its own for its reports."""
    # What the person who runs the tests has set must not decide what they see.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "LLM_", "DOCKER_"))}
    ours |= {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LLM_PROGRESS": "0"}

    def run(*args: str, env: Mapping[str, str] | None = None) -> Run:
        report = tmp_path_factory.mktemp("report")
        chosen = [] if "-i" in args else ["-i", "inventory/demo"]
        done = subprocess.run(
            [str(CHECKOUT / ".venv/bin/ansible-playbook"), *chosen, *args, "-e", f"llm_report_dir={report}"],
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
    """This machine's own Docker engine; that it answers is for the playbooks to see to."""
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock", version="1.41")
    yield client
    client.close()


@pytest.fixture(scope="session")
def converged(playbook: Playbook, docker_client: docker.DockerClient) -> Run:
    """The demo, deployed once a session; the run that did it."""
    assert os.geteuid() == 0, "these tests deploy to this machine: run them as root"
    run = playbook("site.yml").passed()
    labels = {c.labels["llm.service"] for c in docker_client.containers.list(filters={"label": "llm.service"})}
    assert labels == {SERVICE}, f"these tests break what is deployed, and here is more than the demo: {sorted(labels)}"
    return run


@pytest.fixture(scope="session")
def machine(
    converged: Run,  # noqa: ARG001 - that it has been deployed is what counts
    docker_client: docker.DockerClient,
) -> Machine:
    """This machine, converged."""
    return Machine(docker_client)


@pytest.fixture
def untouched(machine: Machine) -> Iterator[None]:
    """Fail the test when it leaves any trace on what is deployed."""
    before = machine.snapshot()
    yield
    assert machine.snapshot() == before


@pytest.fixture
def restored(machine: Machine, playbook: Playbook) -> Iterator[None]:
    """For tests that break the service: afterwards it is as it was, also when a test has failed halfway."""
    release, releases = machine.release, machine.service_folder / "releases"
    before = {p.name for p in releases.iterdir()}
    yield
    again = playbook("site.yml")
    # Releases that failed are kept to be looked at until the next one is current; these are not worth a look.
    for place in releases.iterdir():
        if place.name not in before:
            shutil.rmtree(place)
    assert (again.rc, machine.release) == (0, release), again.stdout[-6000:]


@pytest.fixture
def inventory(tmp_path: Path) -> Callable[[str], list[str]]:
    """The demo's inventory and a file of one's own, host_vars/localhost/mine.yml: gives the arguments that choose it."""

    def write(text: str) -> list[str]:
        folder = tmp_path / "inventory"
        own = folder / "host_vars" / "localhost"
        own.mkdir(parents=True)
        shutil.copy(CHECKOUT / "inventory/demo/hosts.yml", folder / "hosts.yml")
        shutil.copy(CHECKOUT / "inventory/demo/host_vars/localhost.yml", own / "demo.yml")
        (own / "mine.yml").write_text(text, encoding="utf-8")
        return ["-i", str(folder)]

    return write
