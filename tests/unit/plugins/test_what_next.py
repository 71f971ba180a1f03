"""The end of a demo that failed: what happened, what to try, and what belongs to a report of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("llm_what_next", ROOT / "callback_plugins" / "llm_what_next.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["llm_what_next"] = module
    spec.loader.exec_module(module)
    return module


what_next = load()
FOLDER = "/opt/llm/services/micro-cpu/diagnostics/20261201T101530Z-feed"
HOST = {
    "processor": {"model": "AMD EPYC", "cores": 2, "features": ["fma", "avx2"]},
    "system": {"id": "debian", "version": "12"},
    "docker": {"version": "20.10.24"},
}
PLAN = {"report_dir": str(ROOT / "reports"), "deployed": ["micro-cpu"], "services": {"micro-cpu": {"image": "llm/x:1"}}}
GATE: dict[str, Any] = {
    "stage": "Services",
    "task": "vllm_service : Report the failure",
    "message": "micro-cpu: release feed failed",
}


def said(*, root: bool = True, options: tuple[str, ...] = ("-i inventory/demo",), **seen: Any) -> str:
    caller = what_next.Caller(options, root, ROOT)
    return "\n".join(what_next.ending(what_next.Seen(**seen), caller))


def test_a_gate_that_failed_has_its_cause_commands_and_what_to_send() -> None:
    text = said(**GATE, diagnostics=FOLDER, reported=True, host=HOST, plan=PLAN)
    for words in (
        "  Failed    Services:\n            micro-cpu: release feed failed",
        "  .venv/bin/ansible-playbook -i inventory/demo playbooks/status.yml\n",
        f"  tail -n 40 {FOLDER}/log.txt\n",
        "  make demo\n",
        "reports/report.html and verdict.json",
        "tar -czf diagnostics.tar.gz -C /opt/llm/services/micro-cpu/diagnostics 20261201T101530Z-feed",
        "debian 12, Docker 20.10.24, image llm/x:1",
        "processor AMD EPYC, 2 cores, fma avx2",
    ):
        assert words in text, words
    assert "sudo" not in text and "llm_services." not in text


def test_a_user_with_sudo_gets_commands_with_it() -> None:
    asks = ("-i inventory/demo", "--ask-become-pass")
    text = said(root=False, options=asks, **GATE, diagnostics=FOLDER, reported=True, host=HOST, plan=PLAN)
    assert "sudo tail -n 40" in text and "sudo tar -czf" in text
    assert "-i inventory/demo --ask-become-pass playbooks/status.yml" in text


@pytest.mark.parametrize(
    ("seen", "words", "others"),
    [
        (
            {"host": HOST, "plan": PLAN},
            ("df -h ", "the output of this run, reports/plan.json"),
            ("tail", "report.html"),
        ),
        ({}, ("playbooks/validate.yml", "not read (see /proc/cpuinfo)"), ("plan.json", "status.yml", "tail")),
        ({"host": HOST, "plan": PLAN, "reported": True}, ("playbooks/smoke.yml", "report.html"), ("tail", "tar")),
    ],
    ids=["before a deployment", "before the host", "asked"],
)
def test_only_what_is_there_is_named(seen: dict[str, Any], words: tuple[str, ...], others: tuple[str, ...]) -> None:
    text = said(stage="Host", task="Install Docker", message="no space left on device", **seen)
    assert all(word in text for word in (*words, 'Host, "Install Docker"', "no space left on device")), text
    assert not [word for word in others if word in text]


def test_a_long_message_is_cut_and_its_lines_are_kept() -> None:
    lines = what_next.excerpt("refused:\n  - one\n" + "word " * 400 + "\nThe old one serves on.")
    assert lines[:2] == ["refused:", "  - one"] and lines[4].endswith("...") and lines[5] == "The old one serves on."
    lines = what_next.excerpt("  - another one\n" * 30)
    assert len(lines) == what_next.LINES and "above" in lines[-1] and max(map(len, lines)) <= what_next.WIDTH


PLAY = """
- name: Host
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Rescued
      block:
        - name: First
          ansible.builtin.fail: {msg: the first is rescued}
      rescue:
        - name: Second
          ansible.builtin.assert: {that: item == 1, fail_msg: "item {{ item }} is wrong", quiet: true}
          loop: [1, 2]
          when: fails
"""


@pytest.mark.parametrize(
    ("name", "fails", "ends"), [("demo", True, True), ("demo", False, False), ("site", True, False)]
)
def test_it_has_the_last_word_of_a_demo_that_failed(tmp_path: Path, name: str, fails: bool, ends: bool) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / f"{name}.yml").write_text(PLAY)
    (tmp_path / "module_utils").symlink_to(ROOT / "module_utils")
    (tmp_path / "callback_plugins").mkdir()  # no link: the plugin knows the demo by its own folder
    for plugin in (ROOT / "callback_plugins").glob("*.py"):
        (tmp_path / "callback_plugins" / plugin.name).write_text(plugin.read_text())
    (tmp_path / "ansible.cfg").write_text((ROOT / "ansible.cfg").read_text())
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", f"playbooks/{name}.yml"]
    env = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [*argv, "-e", json.dumps({"fails": fails})],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (2 if fails else 0), done.stdout + done.stderr
    after = done.stdout.partition("\ntotal ")[2]
    assert ("Failed" in after) is ends
    if ends:
        assert 'Host, "Second":\n            item 2 is wrong' in after, after
