"""The action plugin that watches long modules: its pure parts, and whole plays on this machine with small modules."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("llm_live", ROOT / "action_plugins" / "llm_live.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["llm_live"] = module
    spec.loader.exec_module(module)
    return module


live = load()


def look(command: str) -> str:
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["engine", "smoke", "warmup", "image", "model"])
def test_links(name: str) -> None:
    link = ROOT / "action_plugins" / f"llm_{name}.py"
    assert link.is_symlink()
    assert str(link.readlink()) == "llm_live.py"
    assert "progress_file" in (ROOT / "library" / link.name).read_text(encoding="utf-8")


def test_look_before_anything_is_there(tmp_path: Path) -> None:
    job = f"{tmp_path.name}-{os.getpid()}.2"  # a word that no other process on this machine has
    command = live.look_command(str(tmp_path / "no result"), str(tmp_path / "no'progress"), job, check_alive=True)
    found = live.read_look(look(command), check_alive=True)
    assert found == live.Poll(result=None, progress=None, alive=False)
    assert (tmp_path / "no'progress.watched").exists()


def test_look_at_a_running_job(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"started": true, "finished": false, "ansible_job_id": "j1.2"}')
    (tmp_path / "p").write_text('{"phase": "a", "message": "old"}\n{"phase": "b", "message": "new {--"}\n')
    command = live.look_command(str(tmp_path / "r"), str(tmp_path / "p"), "j771122.33", check_alive=True)
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "j771122"])
    try:
        found = live.read_look(look(command), check_alive=True)
        assert found == live.Poll(result=None, progress=("b", "new {--"), alive=True)
    finally:
        job.kill()
        job.wait()
    assert live.read_look(look(command), check_alive=True).alive is False


def test_look_at_a_result(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"changed": false, "msg": "two\\nlines"}')
    (tmp_path / "p").write_text('{"phase": "b", "mess')
    found = live.read_look(
        look(live.look_command(str(tmp_path / "r"), str(tmp_path / "p"), "j1.2", check_alive=False)), check_alive=False
    )
    assert json.loads(found.result)["msg"] == "two\nlines"
    assert found.progress is None
    assert found.alive is None


@pytest.mark.parametrize("output", ["", "{", '{"changed": tr', "null", "[]"])
def test_half_a_result_is_none(output: str) -> None:
    assert live.read_look(output, check_alive=False).result is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"failed": True, "cmd": "x", "data": "", "stderr": "", "msg": "Traceback"}, "killed, or has crashed"),
        (
            {"failed": True, "cmd": "x", "data": "", "stderr": "Illegal instruction", "msg": "Traceback"},
            "Illegal instruction",
        ),
        ({"failed": True, "cmd": "x", "outdata": "", "stderr": "", "msg": "no such file"}, "killed, or has crashed"),
        ({"failed": True, "msg": "Timeout exceeded", "child_pid": 3}, "24 hours"),
        ({"failed": True, "msg": "an ordinary failure", "stderr": "noise"}, ""),
        ({"changed": True}, ""),
    ],
)
def test_ended_badly(data: dict[str, Any], words: str) -> None:
    said = live.ended_badly(data)
    assert words in said
    assert bool(words) == bool(said)


def test_narrator_prints_what_is_new_and_signs_of_life() -> None:
    narrator = live.Narrator("web", "llm_engine", 100.0, secret=False)
    assert narrator.line(101.0, None) == ""
    assert narrator.line(102.0, ("weights", "shard 1 of 2")) == "  web | llm_engine | 0:02 | weights: shard 1 of 2"
    assert narrator.line(103.0, ("weights", "shard 1 of 2")) == ""
    assert narrator.line(116.9, ("weights", "shard 1 of 2")) == ""
    assert narrator.line(117.0, None) == "  web | llm_engine | 0:17 | weights: shard 1 of 2"
    assert narrator.line(165.0, ("ready", "")) == "  web | llm_engine | 1:05 | ready"


def test_narrator_keeps_quiet_with_no_log() -> None:
    narrator = live.Narrator("web", "llm_smoke", 0.0, secret=True)
    assert narrator.line(1.0, ("smoke", "key is k-1")) == ""
    assert narrator.line(16.0, ("smoke", "key is k-1")) == "  web | llm_smoke | 0:16 | running"


MODULE = """#!/usr/bin/python
import os, pathlib, signal, time
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base.progress import Progress
module = AnsibleModule(argument_spec={
    "do": {"type": "str", "default": "ok"}, "key": {"type": "str", "no_log": True}, "progress_file": {"type": "path"},
    "until": {"type": "path"},
}, supports_check_mode=True)
progress = Progress(module.params["progress_file"])
do = module.params["do"]
def say(phase, message):
    # Goes on when the watcher has begun two looks since: the first of them has seen it.
    progress.say(phase, message)
    if do != "show":
        return
    watched = pathlib.Path(module.params["progress_file"] + ".watched")
    begun = lambda: watched.stat().st_mtime_ns if watched.exists() else 0
    for _ in range(2):
        last = begun()
        while begun() == last:
            time.sleep(0.02)
say("first", "step one")
say("second", "step two")
while module.params["until"] and not os.path.exists(module.params["until"]):
    time.sleep(0.02)
if do == "fail":
    module.fail_json(msg="it went wrong", answer=42)
if do == "crash":
    raise RuntimeError("out of luck")
if do == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if do == "vanish":
    runner = os.getppid()  # goes first: it would write a result for a module that died before it
    os.kill(runner, signal.SIGKILL)
    while os.getppid() == runner:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
module.exit_json(changed=module.check_mode, said=["a", "b"], ansible_facts={"llm_probe": 7}, key=module.params["key"])
"""

TASKS = """
- name: Task plain
  llm_model: {do: show, key: very-secret-key}
  register: probe
- name: Task no_log
  llm_model: {do: show, key: very-secret-key}
  no_log: true
- name: Task own file
  llm_model: {do: show, progress_file: PROJECT/mine}
- name: Task async
  llm_model:
  async: 30
  poll: 1
- name: Task interpreter
  llm_model:
  vars: {ansible_python_interpreter: /nosuch/python}
  ignore_errors: true # the failure itself is what the test looks at
- name: Task fail
  llm_model: {do: fail}
  register: failed
  ignore_errors: true # the failure itself is what the test looks at
- name: Task crash
  llm_model: {do: crash}
  ignore_errors: true # the failure itself is what the test looks at
- name: Task die
  llm_model: {do: die}
  ignore_errors: true # the failure itself is what the test looks at
- name: Task vanish
  llm_model: {do: vanish}
  ignore_errors: true # the failure itself is what the test looks at
- name: Compare
  ansible.builtin.assert:
    that:
      - probe.said == ["a", "b"]
      - probe is not changed
      - probe is success
      - ansible_facts.llm_probe == 7
      - failed.answer == 42
      - not (["ansible_job_id", "started", "finished", "results_file"] | intersect(probe.keys()))
"""


def command(project: Path, tasks: str, *options: str) -> tuple[list[str], dict[str, str]]:
    """Make a project whose module llm_model is a probe and everything else is ours; return how to play the tasks."""
    (project / "library").mkdir()
    (project / "library" / "llm_model.py").write_text(MODULE)
    folders = "\n".join(f"{name} = {ROOT / name}" for name in ("module_utils", "action_plugins", "callback_plugins"))
    (project / "ansible.cfg").write_text(
        f"[defaults]\nlibrary = {project / 'library'}\n{folders}\ncallbacks_enabled = llm_progress\n"
        f"callback_result_format = yaml\nlocal_tmp = {project / 'tmp'}\n"
        f"remote_tmp = {project / 'remote'}\n[connection]\npipelining = true\n"
    )
    head = (
        "- name: stage one\n  hosts: localhost\n  connection: local\n  gather_facts: false\n  vars:\n"
        f"    ansible_python_interpreter: {sys.executable}\n    ansible_async_dir: {project / 'async'}\n  tasks:\n"
    )
    (project / "play.yml").write_text(head + textwrap.indent(tasks.replace("PROJECT", str(project)), "    "))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    environment["LLM_TIMINGS_FILE"] = str(project / "timings.json")
    return [
        sys.executable,
        "-m",
        "ansible",
        "playbook",
        "-i",
        "localhost,",
        str(project / "play.yml"),
        *options,
    ], environment


def leftovers(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "async").glob("*"))


@dataclass
class Played:
    """A play that has ended: its folder, all output, and the output of each task."""

    project: Path
    code: int
    output: str

    def task(self, name: str) -> str:
        return self.output.partition(f"TASK [Task {name}]")[2].partition("TASK [")[0]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    project = tmp_path_factory.mktemp("live")
    argv, environment = command(project, TASKS, "-v")
    done = subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    return Played(project, done.returncode, done.stdout)


def test_results_are_the_modules_own(played: Played) -> None:
    assert played.code == 0, played.output


def test_progress_is_shown(played: Played) -> None:
    for step in ("first: step one", "second: step two"):
        assert re.search(rf"^  localhost \| llm_model \| \d+:\d\d \| {step}$", played.task("plain"), re.MULTILINE)


def test_no_secret_is_shown(played: Played) -> None:
    assert "very-secret-key" not in played.output
    assert "step" not in played.task("no_log")


def test_own_progress_file_is_kept(played: Played) -> None:
    assert len((played.project / "mine").read_text(encoding="utf-8").splitlines()) == 2
    assert not (played.project / "mine.watched").exists()
    assert "step two" in played.task("own file")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("interpreter", "/nosuch/python"),
        ("fail", "it went wrong"),
        ("crash", "out of luck"),
        ("die", "llm_model ended without a result: it was killed, or has crashed"),
        ("vanish", "llm_model: its processes are gone and left no result"),
    ],
)
def test_failures(played: Played, task: str, words: str) -> None:
    assert "FAILED!" in played.task(task)
    assert words in " ".join(played.task(task).split())
    assert "changed: true" not in played.task(task)


def test_nothing_is_left(played: Played) -> None:
    # The task with `async` of its own is Ansible's; it cleans its job file up as well.
    assert leftovers(played.project) == []


def test_arguments_are_gone_with_the_task(tmp_path: Path) -> None:
    """Ansible's own job wrapper removes them seconds after the task."""
    argv, environment = command(tmp_path, "- name: Task plain\n  llm_model:\n")
    subprocess.run(argv, env=environment, capture_output=True, timeout=300, check=True)
    assert list((tmp_path / "remote").glob("ansible-tmp-*")) == []


def test_counted_by_the_callback(played: Played) -> None:
    report = json.loads((played.project / "timings.json").read_text(encoding="utf-8"))
    assert [(stage["stage"], stage["tasks"], stage["modules"]) for stage in report["stages"]] == [("stage one", 10, 9)]
    assert re.search(r"^stage one +\d+\.\d +10 +9$", played.output, re.MULTILINE)


def test_check_mode_runs_directly(tmp_path: Path) -> None:
    argv, environment = command(tmp_path, "- name: Task plain\n  llm_model:\n", "--check")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1" in done.stdout
    assert "step one" not in done.stdout
    assert not (tmp_path / "async").exists()


def test_interrupt_ends_the_play(tmp_path: Path) -> None:
    argv, environment = command(tmp_path, "- name: Task plain\n  llm_model: {until: PROJECT/go}\n")
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not leftovers(tmp_path):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) != 0
    finally:
        process.kill()
        (tmp_path / "go").touch()
