"""Callbacks: stages, counts and signs of life (every time is given), and the end of a run without an inventory."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("llm_progress", ROOT / "callback_plugins" / "llm_progress.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["llm_progress"] = module
    spec.loader.exec_module(module)
    return module


progress = load()


@pytest.mark.parametrize(
    ("action", "counts"),
    [
        ("ansible.builtin.command", True),
        ("llm_engine", True),
        ("ansible.builtin.set_fact", False),
        ("assert", False),
        ("llm_plan", False),
        ("ansible.builtin.include_tasks", False),
    ],
)
def test_runs_module(action: str, counts: bool) -> None:
    assert progress.runs_module(action) is counts


def test_counts() -> None:
    timings = progress.Timings()
    timings.stage("host", 100.0)
    for _ in range(4):
        timings.begun()
    timings.result("t1", "a", "command", skipped=False)
    timings.result("t1", "b", "command", skipped=False)
    timings.result("t2", "a", "command", skipped=True)
    timings.result("t3", "a", "set_fact", skipped=False)
    timings.stage("images", 103.0)
    for skipped in (False, True, False):
        timings.item("t4", "a", "copy", skipped=skipped)
    timings.result("t4", "a", "copy", skipped=False)
    timings.result("t4", "b", "copy", skipped=False)
    timings.end(110.5)
    assert timings.report() == {
        "seconds": 10.5,
        "tasks": 3,
        "modules": 5,
        "workers": 4,
        "stages": [
            {"stage": "host", "seconds": 3.0, "tasks": 2, "modules": 2, "workers": 4},
            {"stage": "images", "seconds": 7.5, "tasks": 1, "modules": 3, "workers": 0},
        ],
    }


def test_batches_of_one_play_are_one_stage() -> None:
    timings = progress.Timings()
    timings.stage("services", 0.0)
    timings.stage("services", 2.0)
    timings.stage("verify", 5.0)
    timings.end(6.0)
    assert [(row["stage"], row["seconds"]) for row in timings.rows()] == [("services", 5.0), ("verify", 1.0)]


def test_table() -> None:
    stages = [{"stage": "services", "seconds": 61.25, "tasks": 7, "modules": 4}]
    lines = progress.table({"seconds": 61.2, "tasks": 7, "modules": 4, "stages": stages})
    assert [line.split() for line in lines] == [
        ["stage", "seconds", "tasks", "modules"],
        ["services", "61.2", "7", "4"],
        ["total", "61.2", "7", "4"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_sign_of_life() -> None:
    task = progress.Running("Build", ["a"], started=0.0, printed=0.0)
    assert progress.sign_of_life(task, 14.9, several_hosts=False) == ""
    assert progress.sign_of_life(task, 15.0, several_hosts=False) == "… Build still running (15 s)"
    assert progress.sign_of_life(task, 29.0, several_hosts=False) == ""
    assert progress.sign_of_life(task, 30.0, several_hosts=True) == "… Build still running on a (30 s)"
    task.hosts.append("b")
    assert progress.sign_of_life(task, 45.0, several_hosts=True) == "… Build still running on 2 hosts (45 s)"
    task.hosts.clear()
    assert progress.sign_of_life(task, 99.0, several_hosts=True) == ""


def run(folder: Path, play: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "play.yml").write_text(play)
    (folder / "ansible.cfg").write_text(
        f"[defaults]\ncallback_plugins = {ROOT / 'callback_plugins'}\ncallbacks_enabled = llm_progress\n"
    )
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(folder / "play.yml")]
    full = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment}
    return subprocess.run(argv, env=full, capture_output=True, text=True, timeout=300, check=False)


PLAY = """
- name: only stage
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Fact
      ansible.builtin.set_fact: {a: 1}
    - name: Skipped
      ansible.builtin.command: "true"
      when: false
    - name: End
      ansible.builtin.meta: end_play
      when: false
    - name: Loop
      ansible.builtin.command: "true"
      changed_when: false
      loop: [1, 2, 3]
      when: item != 2
      vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""


def test_a_real_run(tmp_path: Path) -> None:
    file = tmp_path / "timings.json"
    done = run(tmp_path, PLAY, LLM_TIMINGS_FILE=str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "only stage" in done.stdout.partition("PLAY RECAP")[2]
    assert "still running" not in done.stdout
    stage = json.loads(file.read_text(encoding="utf-8"))["stages"][0]
    assert (stage["tasks"], stage["modules"], stage["workers"]) == (2, 2, 3)


def test_switched_off(tmp_path: Path) -> None:
    file = tmp_path / "timings.json"
    done = run(tmp_path, PLAY, LLM_TIMINGS_FILE=str(file), LLM_PROGRESS="0")
    assert "seconds" not in done.stdout
    assert file.exists()


def test_timings_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = run(tmp_path, PLAY, LLM_TIMINGS_FILE="/nosuch/folder/t.json")
    assert done.returncode == 0
    assert "LLM_TIMINGS_FILE /nosuch/folder/t.json" in done.stderr


# -- llm_inventory ------------------------------------------------------------------------------------------------------


def begin(monkeypatch: pytest.MonkeyPatch, argv: list[str], sources: list[str], origin: str, hosts: list[str]) -> int:
    """Exit code of the callback at the beginning of a run, 0 if it lets it go on. Ansible's default is /x/hosts here."""
    spec = importlib.util.spec_from_file_location("llm_inventory", ROOT / "callback_plugins" / "llm_inventory.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    real = module.ansible.constants.config.get_config_value_and_origin

    def asked(name: str, *args: Any, **kwargs: Any) -> Any:
        return (["/x/hosts"], origin) if name == "DEFAULT_HOST_LIST" else real(name, *args, **kwargs)

    monkeypatch.setattr(module.ansible.constants.config, "get_config_value_and_origin", asked)
    monkeypatch.setattr(module.ansible.context, "CLIARGS", {"inventory": tuple(sources)})
    monkeypatch.setattr(sys, "argv", ["ansible-playbook", "site.yml", *argv])
    manager = SimpleNamespace(get_vars=lambda: {"groups": {"all": hosts}})
    playbook = SimpleNamespace(get_plays=lambda: [SimpleNamespace(get_variable_manager=lambda: manager)])
    try:
        module.CallbackModule().v2_playbook_on_start(playbook)
    except SystemExit as end:
        return int(str(end.code))
    return 0


@pytest.mark.parametrize(
    ("argv", "sources", "origin", "hosts", "code"),
    [
        ([], ["/x/hosts"], "default", [], 5),
        ([], ["/x/hosts"], "default", ["of-somebody"], 5),
        (["--limit", "of-somebody"], ["/x/hosts"], "default", ["of-somebody"], 5),
        (["-i", "/x/hosts"], ["/x/hosts"], "default", ["box"], 0),
        (["--inventory=/x/hosts"], ["/x/hosts"], "default", ["box"], 0),
        (["-i", "mine"], ["/home/me/mine"], "default", ["box"], 0),
        (["-i", "mine"], ["/home/me/mine"], "default", [], 5),
        ([], ["/x/hosts"], "env: ANSIBLE_INVENTORY", ["box"], 0),
        ([], ["/home/me/mine"], "/home/me/.ansible.cfg", ["box"], 0),
    ],
)
def test_only_a_chosen_inventory_is_begun_with(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], sources: list[str], origin: str, hosts: list[str], code: int
) -> None:
    assert begin(monkeypatch, argv, sources, origin, hosts) == code
