"""Whatever step of role vllm_service fails, reports hold it and what others got. STUBS of the modules that touch a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests import catalogs

RELEASE = "0123456789ab"
STUB = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule, _load_params

name, fails, result = {name!r}, {fails!r}, {result!r}
given = {{k: v for k, v in _load_params().items() if not k.startswith("_ansible_")}}
module = AnsibleModule(argument_spec={{k: {{"type": "raw", "no_log": False}} for k in given}})
two = "two" in (given.get("service"), given.get("container"))
if name == "llm_smoke":
    right = not (two and fails == "answer")
    checks = [dict(id=i, ok=ok, seconds=0.1, evidence="x", remedy="") for i, ok in (("health", True), ("answer", right))]
    own = dict(ok=right, checks=checks)
    result = dict(verdict=dict(ok=right, services={{given["service"]: own}}), ttft_ms=5.0, left_out={{}}, slow=False)
    if not right:
        module.fail_json(msg="two: 1 of 2 checks failed", **result)
if two and f"{{name}} {{given.get('state', '')}}".strip() == fails:
    module.fail_json(msg="no space left on device", **result)
module.exit_json(changed=False, **result)
"""
RESULTS: dict[str, dict[str, Any]] = {
    "llm_release": {"ip": "127.0.0.1", "container": "c"},
    "llm_key": {},
    "llm_engine": {"ready": True, "url": "http://127.0.0.1:8000"},
    "llm_smoke": {},
    "llm_warmup": {},
    "llm_drain": {},
    "llm_diagnose": {"folder": "/srv/diagnostics/it", "missing": {}},
    "llm_lease": {},
}
PLAY = f"""
- name: Services
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Bring them
      ansible.builtin.import_tasks: {catalogs.ROOT}/playbooks/tasks/stage.yml
      vars:
        llm_stage: deploy.yml
"""
DEPLOY = """
- name: Deploy
  ansible.builtin.include_role:
    name: vllm_service
  vars:
    vllm_service_plan: "{{ plans[item] }}"
    vllm_service_containers: ["llm-{{ item }}-old"]
  loop: "{{ plans.keys() | list }}"
"""


def plan(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "release": RELEASE,
        "container": name,
        "folder": f"/srv/{name}/releases/{RELEASE}",
        "service_folder": f"/srv/{name}",
        "cache": "",
        "key_file": name,
        "files": {},
        "facts": {},
        "boot_timeout": 9,
        "ask": {"smoke": {"model": name}, "warmup": {"model": name}},
    }


def deploy(folder: Path, fails: str, *names: str) -> subprocess.CompletedProcess[str]:
    """Deploy these services; `two` fails at what is named: `answer`, or a module with its state."""
    (folder / "library").mkdir()
    for name, result in RESULTS.items():
        (folder / "library" / f"{name}.py").write_text(STUB.format(name=name, result=result, fails=fails))
    (folder / "action_plugins").mkdir()
    (folder / "action_plugins/llm_report.py").symlink_to(catalogs.ROOT / "action_plugins/llm_report.py")
    paths = {
        "library": folder / "library",
        "action_plugins": folder / "action_plugins",
        "filter_plugins": catalogs.ROOT / "filter_plugins",
        "roles_path": catalogs.ROOT / "roles",
    }
    (folder / "ansible.cfg").write_text(
        "[defaults]\npipelining = true\n" + "".join(f"{k} = {v}\n" for k, v in paths.items())
    )
    (folder / "play.yml").write_text(PLAY)
    (folder / "deploy.yml").write_text(DEPLOY)
    about = {n: {"model": n, "description": "", "release": "old"} for n in names}
    machine = {"processor": {"model": "AMD EPYC", "cores": 2, "features": ["fma"]}}
    given = {
        "ansible_python_interpreter": sys.executable,
        "vllm_service_python": sys.executable,
        "plans": {n: plan(n) for n in about},
        "llm_plan": {"about": about, "machine": machine, "report_dir": str(folder / "reports")},
    }
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "play.yml", "-e", json.dumps(given)]
    env = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("fails", "step", "checks"),
    [
        ("llm_release staged", "Write the release's folder", ["deployed"]),
        ("llm_engine", "Wait for the engine", ["deployed"]),
        ("answer", "Ask the engine", ["health", "answer"]),
        ("llm_release committed", "Make the release current", ["health", "answer", "deployed"]),
    ],
)
def test_reports_hold_what_failed_and_what_others_got(tmp_path: Path, fails: str, step: str, checks: list[str]) -> None:
    done = deploy(tmp_path, fails, "one", "two", "three")
    said = " ".join(done.stdout.split())
    assert done.returncode == 2 and f'two: release {RELEASE} failed at "{step}"' in said, done.stdout[-5000:]
    assert "llm_services_custom.two" in said and "what its engine said in /srv/diagnostics/it" in said
    verdict = json.loads((tmp_path / "reports/verdict.json").read_text(encoding="utf-8"))
    assert {name: service["ok"] for name, service in verdict["services"].items()} == {"one": True, "two": False}
    made = verdict["services"]["two"]["checks"]
    assert [check["id"] for check in made] == checks and not made[-1]["ok"]
    assert checks[-1] != "deployed" or made[-1]["evidence"] == f'failed at "{step}": no space left on device'
    assert not verdict["ok"] and verdict["host"]["processor"]["model"] == "AMD EPYC"
    suites = {s.get("name"): s.get("failures") for s in ET.parse(tmp_path / "reports/junit.xml").getroot()}
    assert suites == {"one": "0", "two": "1"}
    assert f"release <code>{RELEASE}</code>" in (tmp_path / "reports/report.html").read_text(encoding="utf-8")
    assert ("What serves was left alone." if "staged" in fails else "There was no release to return to.") in said


def test_nothing_is_reported_when_all_were_deployed(tmp_path: Path) -> None:
    done = deploy(tmp_path, "nothing", "two")
    assert done.returncode == 0, done.stdout[-5000:]
    assert not (tmp_path / "reports").exists()
