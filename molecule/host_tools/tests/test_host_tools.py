"""What modules need on a host is there: folders, and an environment made from the lock."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from testinfra.host import Host

LOCK = Path(__file__).resolve().parents[3] / "roles/host_tools/files/requirements.lock"
FOLDERS = {"services": 0o755, "models": 0o755, "cache": 0o755, "state": 0o755, "keys": 0o700}


@pytest.fixture
def root(host: Host) -> str:
    """The folder that the scenario declares, or the role's default."""
    return str(host.ansible.get_variables().get("host_tools_root", "/opt/llm"))


def test_the_folders_belong_to_root(host: Host, root: str) -> None:
    found = {name: host.file(f"{root}/{name}") for name in FOLDERS}
    assert {name: folder.mode for name, folder in found.items()} == FOLDERS
    assert {folder.user for folder in found.values()} == {"root"}


def test_the_environment_is_that_of_the_lock(host: Host, root: str) -> None:
    assert (
        host.file(f"{root}/venv/.lock-sha256").content_string.strip() == hashlib.sha256(LOCK.read_bytes()).hexdigest()
    )


def test_every_locked_package_is_installed_in_its_version(host: Host, root: str) -> None:
    said = host.check_output(f"{root}/venv/bin/python -m pip list --format freeze --disable-pip-version-check")
    installed = {line.lower().replace("_", "-") for line in said.splitlines()}
    wanted = [line.split()[0] for line in LOCK.read_text().splitlines() if "==" in line and line[0].isalnum()]
    plain = {line.lower().replace("_", "-") for line in wanted if ";" not in line}
    assert {"openai", "huggingface-hub"} <= {line.partition("==")[0] for line in plain}
    assert plain <= installed | {line for line in plain if _for_elsewhere(line)}, plain - installed


def _for_elsewhere(line: str) -> bool:
    """Whether the lock names this package for other systems or Pythons only."""
    name = line.partition("==")[0]
    found = [
        entry for entry in LOCK.read_text().splitlines() if entry.lower().replace("_", "-").startswith(f"{name}==")
    ]
    return all(";" in entry for entry in found)


def test_modules_can_use_it(host: Host, root: str) -> None:
    assert host.run(f"{root}/venv/bin/python -c 'import openai, huggingface_hub'").rc == 0


def test_nothing_is_left_behind(host: Host) -> None:
    assert host.run("ls -d /tmp/*.host_tools").rc != 0
