"""Module llm_docker_daemon without Docker: a stub stands for the daemon's process, and the files are real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_docker_daemon
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.docker import daemon, settings
from ansible.module_utils.llm.docker.process import DaemonFailed

Run = Callable[..., dict[str, Any]]
OLD = {"dns": ["10.0.0.1"], "live-restore": True}
LOADABLE = {"settings": {"debug": True}}
NEXT_START = {"settings": {"data-root": "/srv/docker"}}


class Stub:
    """Stands for docker.process.Engine. `refuses`: a setting with which it neither reloads nor starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.file, self.kept = tmp_path / "daemon.json", tmp_path / "loaded.json"
        self.file.write_text(json.dumps(OLD))
        self.info: dict[str, Any] = {"LiveRestoreEnabled": True, "ServerVersion": "28.5.2"}
        self.process: dict[str, Any] | None = {"argv": [], "born": "1", "pid": 1, "outdated": False}
        self.did: list[str] = []
        self.warned: list[str] = []
        self.runs: dict[str, str] = {}
        self.refuses = ""
        self.valid = True
        monkeypatch.setattr(settings, "Engine", lambda *_: self)
        monkeypatch.setattr(daemon, "FILE", str(self.file))
        monkeypatch.setattr(daemon, "DEFAULTS_FILE", str(tmp_path / "default"))
        monkeypatch.setattr(daemon, "LOADED_FILE", str(self.kept))
        monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_, **__: "/usr/bin/dockerd")
        monkeypatch.setattr(AnsibleModule, "run_command", self.validate)
        # Ansible shows the same warning once a process, so that a result has it in one test alone.
        monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: self.warned.append(text))

    @property
    def running(self) -> bool:
        return bool(self.info)

    def validate(self, args: list[str], **_: Any) -> tuple[int, str, str]:
        staged = Path(args[2].partition("=")[2])
        assert args[1] == "--validate" and json.loads(staged.read_text())
        return (0, "", "") if self.valid else (1, "", f"{staged}: unknown key\n")

    def look(self) -> None:
        return

    def version(self) -> str:
        return str(self.info.get("ServerVersion", ""))

    def containers(self) -> dict[str, str]:
        return self.runs

    def lost(self, before: dict[str, str]) -> list[str]:
        return sorted(set(before) - set(self.runs))

    def log(self) -> str:
        return "What its log says: nothing"

    def act(self, what: str) -> None:
        self.did.append(what)
        if self.refuses and self.refuses in self.settings:
            raise DaemonFailed("it does not take it")

    def reload(self) -> None:
        self.act("reload")

    def start(self) -> None:
        self.act("start")

    def stop(self) -> None:
        self.did.append("stop")

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    return Stub(monkeypatch, tmp_path)


def test_a_setting_that_a_reload_loads_is_loaded_at_once(stub: Stub, run_module: Run) -> None:
    predicted = run_module(llm_docker_daemon, LOADABLE, check_mode=True)
    assert (predicted["action"], predicted["changed"]) == ("reload", True) and stub.settings == OLD and not stub.did
    assert run_module(llm_docker_daemon, LOADABLE)["action"] == "reload"
    assert stub.settings == {**OLD, "debug": True} and stub.did == ["reload"]
    again = run_module(llm_docker_daemon, LOADABLE)
    assert (again["action"], again["changed"]) == ("none", False) and stub.did == ["reload"]


def test_a_setting_that_needs_a_start_waits_for_one_while_containers_run(stub: Stub, run_module: Run) -> None:
    stub.runs = {"web": "1"}
    waiting = run_module(llm_docker_daemon, NEXT_START)
    assert waiting["action"] == "wait" and waiting["waits"] == ["data-root"] and not stub.did
    assert "may_restart is off" in stub.warned[0] and "data-root" in stub.settings
    assert "data-root" not in json.loads(stub.kept.read_text())["settings"], "it runs without the setting"
    allowed = run_module(llm_docker_daemon, {**NEXT_START, "may_restart": True})
    assert allowed["action"] == "restart" and allowed["waits"] == [] and stub.did == ["stop", "start"]
    assert not stub.kept.exists()


def test_a_restart_that_would_stop_containers_is_refused(stub: Stub, run_module: Run) -> None:
    stub.runs = {"web": "1"}
    options = {**NEXT_START, "may_restart": True, "live_restore": False}
    refused = run_module(llm_docker_daemon, options)
    assert refused["failed"] and "1 running containers would stop with it" in refused["msg"]
    assert stub.settings == OLD and not stub.did


@pytest.mark.parametrize("options", [LOADABLE, {**NEXT_START, "may_restart": True}])
def test_settings_that_docker_does_not_take_are_undone(stub: Stub, run_module: Run, options: dict[str, Any]) -> None:
    (stub.refuses,) = options["settings"]
    refused = run_module(llm_docker_daemon, options)
    assert refused["failed"] and "it does not take it. The old files are back" in refused["msg"]
    assert stub.settings == OLD and not stub.kept.exists()


def test_what_dockerd_would_refuse_is_not_written(stub: Stub, run_module: Run) -> None:
    stub.valid = False
    refused = run_module(llm_docker_daemon, LOADABLE)
    assert f"dockerd refuses what {stub.file} would hold: {stub.file}: unknown key" in refused["msg"]
    assert stub.settings == OLD and not stub.did and [p.name for p in stub.file.parent.iterdir()] == ["daemon.json"]


def test_a_file_that_is_no_json_is_left_alone(stub: Stub, run_module: Run) -> None:
    stub.file.write_text("{")
    refused = run_module(llm_docker_daemon, LOADABLE)
    assert "nothing was written" in refused["msg"] and stub.file.read_text() == "{"


def test_a_node_of_a_swarm_cannot_keep_containers(stub: Stub, run_module: Run) -> None:
    stub.info["Swarm"] = {"LocalNodeState": "active"}
    assert "excludes live-restore" in run_module(llm_docker_daemon, LOADABLE)["msg"]


def test_a_host_without_docker_says_how_to_get_it(stub: Stub, run_module: Run) -> None:
    stub.info, stub.process = {}, None
    assert "Install it (role docker_engine)" in run_module(llm_docker_daemon, LOADABLE)["msg"]
    assert run_module(llm_docker_daemon, LOADABLE, check_mode=True)["action"] == "start"
