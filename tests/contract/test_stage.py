"""When a run gives a host back: the real tasks/stage.yml, with four hosts whose lease is a STUB."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests import catalogs

TASKS = catalogs.ROOT / "playbooks" / "tasks"
HOSTS = {
    "passes": {"last": False, "fails": False},
    "fails": {"last": False, "fails": True},
    "passes_last": {"last": True, "fails": False},
    "fails_last": {"last": True, "fails": True},
}
PLAY = f"""
- name: Stage
  hosts: all
  gather_facts: false
  tasks:
    - name: Run the stage
      ansible.builtin.import_tasks: {TASKS}/stage.yml
      vars:
        llm_stage: own.yml
        llm_stage_last: "{{{{ last }}}}"

    - name: Go on
      ansible.builtin.debug:
"""
OWN = """
- name: Change the host
  ansible.builtin.assert:
    that: not fails
"""
STUB = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={"state": {"type": "str", "choices": ["released"], "required": True}})
module.exit_json(changed=False)
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "library").mkdir()
    (folder / "library/llm_lease.py").write_text(STUB)
    (folder / "play.yml").write_text(PLAY)
    (folder / "own.yml").write_text(OWN)
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": HOSTS, "vars": local}}))
    (folder / "ansible.cfg").write_text("[defaults]\nlibrary = library\n")
    env = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "play.yml"]
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def ran(output: str, task: str) -> set[str]:
    """Hosts that passed a task."""
    (part,) = [p for p in output.split("TASK [") if p.startswith(f"{task}]")]
    return set(re.findall(r"^ok: \[(\w+)\]", part, re.MULTILINE))


def test_a_host_is_given_back_after_a_failure_and_by_the_last_stage(output: str) -> None:
    assert ran(output, "Give the host back") == {"fails", "passes_last", "fails_last"}


def test_only_a_host_whose_stage_passed_goes_on(output: str) -> None:
    assert ran(output, "Go on") == {"passes", "passes_last"}


def test_the_giving_back_is_written_once() -> None:
    places = [*catalogs.ROOT.glob("playbooks/**/*.yml"), *catalogs.ROOT.glob("roles/*/tasks/*.yml")]
    found = [p.name for p in places if "state: released" in p.read_text(encoding="utf-8")]
    assert found == ["give_back.yml"]


def test_every_stage_that_takes_the_host_is_run_by_the_file_that_gives_it_back() -> None:
    for path in catalogs.ROOT.glob("playbooks/*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "llm_lease:" not in text, path.name
        assert re.findall(r"llm_stage: (\S+)", text) in ([], [f"tasks/stages/{path.name}"]), path.name
        assert ("llm_stage:" in text) == (TASKS / "stages" / path.name).exists(), path.name
