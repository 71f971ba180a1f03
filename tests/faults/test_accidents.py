"""Nothing is started by accident: a run without an inventory, on a host that nobody declared, or that would empty one that serves.

Docker is a STUB where the host is looked at (see benchmarks/converge.py); all else is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.plan.selection import STAGES

from tests import catalogs

PLAYBOOKS = sorted((catalogs.ROOT / "playbooks").glob("*.yml"))

_SPEC = importlib.util.spec_from_file_location("converge", catalogs.ROOT / "benchmarks/converge.py")
assert _SPEC and _SPEC.loader
converge: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(converge)


def playbook(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A run in the project; what the person who runs the tests has set must not decide what they see."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "LLM_"))}
    ours |= {"LLM_PROGRESS": "0", "ANSIBLE_NOCOLOR": "1", **(env or {})}
    command = [str(catalogs.ROOT / ".venv/bin/ansible-playbook"), *argv]
    return subprocess.run(
        command,
        cwd=catalogs.ROOT,
        env=ours,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# -- without an inventory -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(Path("/etc/ansible/hosts").exists(), reason="tests/unit/plugins/test_callback.py has this case")
@pytest.mark.parametrize(
    "argv",
    [
        ["site.yml", "--check", "--diff"],
        ["site.yml", "--limit", "my-box"],
        ["playbooks/host.yml"],  # a stage, which is no run of its own either
    ],
    ids=" ".join,
)
def test_a_run_without_an_inventory_ends_with_one_line(argv: list[str]) -> None:
    ran = playbook(*argv)
    assert ran.returncode == 5
    *warnings, line = ran.stderr.splitlines()
    assert line.startswith("[ERROR]: No inventory was chosen, and nothing was started.")
    assert "-i INVENTORY (here: inventory/demo, inventory/rtx4090x3)" in line and "export ANSIBLE_INVENTORY=" in line
    assert [w for w in warnings if "Could not match supplied host pattern" not in w] == []
    assert "PLAY" not in ran.stdout and "skipping" not in ran.stdout


def test_an_inventory_without_hosts_is_none(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {}}\n", encoding="utf-8")
    ran = playbook("-i", str(tmp_path), "site.yml")
    assert ran.returncode == 5
    assert ran.stderr.startswith(f"[ERROR]: There is no host in {tmp_path}, and nothing was started.")


def test_what_starts_nothing_needs_no_inventory() -> None:
    for option in ("--syntax-check", "--list-hosts"):
        assert playbook(option, "site.yml").returncode == 0


def test_the_environment_can_choose_once(tmp_path: Path) -> None:
    chosen = {"ANSIBLE_INVENTORY": "inventory/demo"}
    ran = playbook("playbooks/validate.yml", "-e", f"llm_report_dir={tmp_path}", env=chosen)
    assert ran.returncode == 0, ran.stdout
    assert (tmp_path / "plan.json").is_file()


# -- without a declaration ----------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """The inventory of the GPU box, whose host got a name of its own, and its file in host_vars did not."""
    folder = tmp_path / "renamed"
    shutil.copytree(catalogs.ROOT / "inventory/rtx4090x3", folder)
    hosts = (folder / "hosts.yml").read_text(encoding="utf-8")
    assert "rtx4090x3:" in hosts
    (folder / "hosts.yml").write_text(hosts.replace("rtx4090x3:", "my-box:"), encoding="utf-8")
    return folder


def test_every_playbook_that_runs_alone_judges_the_declaration_first() -> None:
    books = {f"{path.stem}": catalogs.read(f"playbooks/{path.name}") for path in PLAYBOOKS}
    first = {book: Path(plays[0].get("ansible.builtin.import_playbook", "")).stem for book, plays in books.items()}
    verbs = {book for book in first if book not in STAGES}
    assert {first[book] for book in verbs - {"demo"}} == {"validate"} and first["demo"] == "site"


@pytest.mark.parametrize("book", ["site.yml", "playbooks/stop.yml"])
def test_a_host_that_was_renamed_without_its_file_is_refused(renamed: Path, tmp_path: Path, book: str) -> None:
    """It has an address that nobody answers at, so that whoever connected would be unreachable (4), not refused (2)."""
    ran = playbook("-i", str(renamed), book, "-e", f"llm_report_dir={tmp_path}")
    assert ran.returncode == 2, ran.stdout
    lost, new = (renamed / "host_vars" / name for name in ("rtx4090x3.yml", "my-box.yml"))
    assert "my-box: refused, 1 problem; nothing was touched." in ran.stdout
    assert f"llm_host_services: is not defined for host `my-box`, while {lost} belongs to no host." in ran.stdout
    assert "Was the host renamed? Then rename its file." in ran.stdout and f"write it to {new}" in ran.stdout
    assert "unreachable=0" in ran.stdout and "Traceback" not in ran.stdout + ran.stderr
    (found,) = (f for f in json.loads((tmp_path / "plan.json").read_text())["findings"] if f["severity"] == "error")
    assert found["id"] == "host-services-undefined"


def test_a_host_that_serves_nothing_says_so(renamed: Path, tmp_path: Path) -> None:
    (renamed / "host_vars/rtx4090x3.yml").rename(renamed / "host_vars/my-box.yml")
    ran = playbook("-i", str(renamed), "playbooks/validate.yml", "-e", f"llm_report_dir={tmp_path}")
    assert ran.returncode == 0 and "belongs to no" not in ran.stdout
    (renamed / "host_vars/my-box.yml").write_text("---\nllm_host_services: []\n", encoding="utf-8")
    ran = playbook("-i", str(renamed), "playbooks/validate.yml", "-e", f"llm_report_dir={tmp_path}")
    assert ran.returncode == 0 and "No service: llm_host_services lists none." in ran.stdout


@pytest.mark.parametrize("limit", [(), ("--limit", "my-box")], ids=["all", "limited"])
def test_files_of_nobody_are_named(renamed: Path, tmp_path: Path, limit: tuple[str, ...]) -> None:
    (renamed / "host_vars/rtx4090x3.yml").rename(renamed / "host_vars/my-box.yml")
    (renamed / "hosts.yml").write_text("all: {hosts: {my-box: {}, other: {}}}\n", encoding="utf-8")
    (renamed / "host_vars/other").mkdir()
    (renamed / "host_vars/other/main.yml").write_text("llm_host_services: []\n", encoding="utf-8")
    (renamed / "host_vars/my-bx.json").write_text("{}\n", encoding="utf-8")
    (renamed / "group_vars/lost").mkdir(parents=True)
    (renamed / "group_vars/all.yml").write_text("{}\n", encoding="utf-8")
    ran = playbook("-i", str(renamed), "playbooks/validate.yml", "-e", f"llm_report_dir={tmp_path}", *limit)
    assert ran.returncode == 0, ran.stdout
    report = tmp_path / "my-box/plan.json" if not limit else tmp_path / "plan.json"
    found = {f["key"]: f for f in json.loads(report.read_text())["findings"]}
    assert found.keys() == {str(renamed / "host_vars/my-bx.json"), str(renamed / "group_vars/lost")}
    assert {f["severity"] for f in found.values()} == {"warn"}
    assert "Did you mean `my-box`?" in found[str(renamed / "host_vars/my-bx.json")]["remedy"]
    assert "belongs to no group of the inventory" in " ".join(ran.stdout.split())


# -- a host that serves -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of runs on a host where two STUB engines, their gateway and their supervisor run."""
    with tempfile.TemporaryDirectory() as name:  # a short path: a socket's has 107 bytes at most
        host = converge.Host(Path(name) / "h", 2)
        with host.served() as environment:
            yield host.runs()["site"][1:], environment


NOTHING = ("-e", json.dumps({"llm_host_services": []}))


@pytest.mark.parametrize(
    "more",
    [(), ("--check", "--tags", "gateway")],
    ids=" ".join,
)
def test_a_host_that_serves_is_not_emptied(serving: tuple[list[str], dict[str, str]], more: tuple[str, ...]) -> None:
    arguments, environment = serving
    ran = playbook("site.yml", *arguments, *NOTHING, *more, env=environment)
    assert ran.returncode == 2, ran.stdout
    assert "refused, 1 problem; nothing was touched." in ran.stdout and "changed=0" in ran.stdout
    assert (
        "has nothing that is to run, and this host serves: `stub-01`, `stub-02`, the gateway, the supervisor would be taken"
        in ran.stdout
    )
    assert "-e llm_prune=true" in ran.stdout and "Traceback" not in ran.stdout + ran.stderr


def test_with_llm_prune_it_may_be(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    ran = playbook("site.yml", *arguments, *NOTHING, "--check", "-e", "llm_prune=true", env=environment)
    assert "refused" not in ran.stdout and "Remove the gateway" in ran.stdout


def test_its_supervisor_is_not_taken(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    without = ("-e", "llm_supervisor=false")
    ran = playbook("site.yml", *arguments, *without, env=environment)
    assert ran.returncode == 2 and "changed=0" in ran.stdout
    assert "llm_supervisor" in ran.stdout and "nothing would bring back an engine that hangs" in ran.stdout
    ran = playbook("site.yml", *arguments, *without, "--check", "-e", "llm_prune=true", env=environment)
    assert "refused" not in ran.stdout and "Remove the supervisor" in ran.stdout
    assert playbook("site.yml", *arguments, *without, "--tags", "images", env=environment).returncode == 0


def test_what_only_looks_goes_on(serving: tuple[list[str], dict[str, str]]) -> None:
    arguments, environment = serving
    for book in ("validate", "status", "smoke"):
        ran = playbook(f"playbooks/{book}.yml", *arguments, *NOTHING, env=environment)
        assert ran.returncode == 0, ran.stdout
        assert ("would be taken from it" in ran.stdout) == (book == "status"), book
