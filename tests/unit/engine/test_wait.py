"""The module that waits for an engine, against a scripted daemon: every way in which a boot can end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_engine
import pytest
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import history, wait

DATA = Path(__file__).parents[1] / "data" / "engine"
Run = Callable[..., dict[str, Any]]
STARTED = "2026-11-23T06:47:48.000000000Z"


def recorded(name: str) -> list[docker_api.LogLine]:
    lines = []
    for raw in (DATA / name).read_text(encoding="utf-8").splitlines():
        stamp, _space, text = raw.partition(" ")
        lines.append(docker_api.LogLine(docker_api.parse_time(stamp), "stderr", text))
    return lines


def inspected(status: str = "running", **state: Any) -> dict[str, Any]:
    restarts = state.pop("restarts", 0)
    return {
        "Config": {"Labels": {"llm.service": "micro", "llm.release": "0123456789ab"}},
        "State": {"Status": status, "StartedAt": STARTED, "ExitCode": 0, "OOMKilled": False, **state},
        "RestartCount": restarts,
        "NetworkSettings": {"Networks": {"llm": {"IPAddress": "172.18.0.2" if status == "running" else ""}}},
    }


class Script:
    """What daemon and engine answer, look by look; the last answer stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[dict[str, Any] | Exception] = [inspected()]
        self.health: list[int] = [200]
        self.log: list[docker_api.LogLine] | Exception = recorded("boot-cpu-compiled.log")
        self.exits: tuple[int | None, bool] = (None, False)
        self.asked: list[tuple[str, int, str]] = []
        monkeypatch.setattr(docker_api, "inspect", lambda _name: self.next_state())
        monkeypatch.setattr(docker_api, "logs", self.read_log)
        monkeypatch.setattr(docker_api, "exits", lambda *_args: self.exits)
        monkeypatch.setattr(wait, "ask_health", self.next_health)
        monkeypatch.setattr(wait, "POLL", 0)

    def next_state(self) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    def next_health(self, ip: str, port: int, path: str) -> int:
        self.asked.append((ip, port, path))
        return self.health.pop(0) if len(self.health) > 1 else self.health[0]

    def read_log(self, _name: str, _since: int = 0, **_options: Any) -> list[docker_api.LogLine]:
        if isinstance(self.log, Exception):
            raise self.log
        return self.log


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


def test_ready(script: Script, run_module: Run) -> None:
    script.health = [0, 503, 200]
    result = run_module(llm_engine, {"container": "web", "network": "llm", "port": 8001, "path": "/ping"})
    assert result["ready"] is True
    assert result["changed"] is False
    assert result["url"] == "http://172.18.0.2:8001"
    assert result["boot_seconds"] == pytest.approx(91.9, abs=0.1)
    assert [row["phase"] for row in result["phases"]][:3] == ["import", "config", "init"]
    assert sum(row["seconds"] for row in result["phases"]) == pytest.approx(result["boot_seconds"], abs=0.5)
    assert result["harvest"]["kv_cache_tokens"] == 46592
    assert script.asked == [("172.18.0.2", 8001, "/ping")] * 3


def test_boots_are_recorded_and_compared(script: Script, run_module: Run, tmp_path: Path) -> None:
    arguments = {"container": "web", "history_folder": str(tmp_path)}
    script.health = [0, 200]
    first = run_module(llm_engine, arguments)
    assert (first["earlier"], first["late"], first["changed"]) == ({}, False, True)
    again = run_module(llm_engine, arguments)
    assert again["changed"] is False, "the same boot is recorded once"
    (kept,) = history.read(tmp_path / "micro-0123456789ab.json")["boots"]
    assert kept["seconds"] == first["boot_seconds"] == pytest.approx(91.9, abs=0.1)
    assert kept["cache"] == first["cache"] == "cold"
    assert sum(kept["phases"].values()) == pytest.approx(91.9, abs=0.5)
    assert again["earlier"]["expected"] == pytest.approx(106.9, abs=0.1)


@pytest.mark.usefixtures("script")
def test_a_boot_later_than_any_before_is_said_and_ends_nothing(run_module: Run, tmp_path: Path) -> None:
    history.add_boot(tmp_path / "micro-0123456789ab.json", {"at": 1, "seconds": 10.0, "cache": "warm"})
    file = tmp_path / "progress"
    arguments = {"container": "web", "history_folder": str(tmp_path), "progress_file": str(file)}
    result = run_module(llm_engine, arguments)
    assert (result["ready"], result["late"]) == (True, True)
    assert "usually ready after 10 s" in file.read_text(encoding="utf-8")


@pytest.mark.usefixtures("script")
def test_a_boot_whose_record_has_no_room_is_no_failure(run_module: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_module(llm_engine, {"container": "web", "history_folder": str(tmp_path / "file")})
    assert (result["ready"], result["changed"]) == (True, False)


def test_a_long_phase_shows_the_last_line_of_the_log(
    script: Script, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "QUIET", 0)
    script.log = recorded("boot-cpu-compiled.log")[:30]
    script.health = [0, 0, 0, 200]
    file = tmp_path / "progress"
    run_module(llm_engine, {"container": "web", "progress_file": str(file)})
    assert "; its log's last line: " in file.read_text(encoding="utf-8")


def test_ready_before_and_its_log_is_gone(script: Script, run_module: Run) -> None:
    script.log = []
    result = run_module(llm_engine, {"container": "web"})
    assert result["ready"] is True
    assert result["boot_seconds"] is None
    assert result["harvest"] == {}


def test_watched_without_a_readable_log(script: Script, run_module: Run) -> None:
    script.log = docker_api.DockerError("configured logging driver does not support reading", 501)
    script.health = [0, 200]
    result = run_module(llm_engine, {"container": "web"})
    assert result["ready"] is True
    assert result["boot_seconds"] > 0


@pytest.mark.parametrize(
    ("log", "state", "words", "cause"),
    [
        ("fail-flag.log", inspected("exited", ExitCode=2), "exited (exit code 2)", "unknown_flag"),
        ("fail-oom.log", inspected("exited", ExitCode=137, OOMKilled=True), "exited (exit code 137)", "out_of_memory"),
        ("fail-perm.log", inspected("restarting", ExitCode=1), "is being restarted", "permission"),
        ("fail-trunc.log", inspected(restarts=1), "was restarted", "broken_weights"),
        ("fail-arch.log", inspected(StartedAt="2026-11-23T06:48:48Z"), "was restarted", "architecture"),
        ("boot-cpu-compiled.log", inspected("paused"), "is paused", None),
        ("boot-cpu-compiled.log", inspected("created"), "was never started", None),
    ],
)
def test_ends_early(script: Script, run_module: Run, log: str, state: Any, words: str, cause: str | None) -> None:
    script.log = recorded(log)
    script.health = [0]
    script.states = [inspected(), inspected(), state]
    result = run_module(llm_engine, {"container": "web", "timeout": 100})
    assert result["failed"] is True
    assert result["ready"] is False
    assert words in result["msg"]
    assert result["cause"].get("id") == cause
    assert result["log_tail"]
    if state["State"]["Status"] == "exited":
        assert result["exit_code"] == state["State"]["ExitCode"]
        assert result["oom_killed"] is state["State"]["OOMKilled"]


def test_memory_ran_out_before_a_restart(script: Script, run_module: Run) -> None:
    script.log = recorded("fail-oom.log")
    script.health = [0]
    script.exits = (137, True)
    script.states = [inspected(), inspected(restarts=1)]
    result = run_module(llm_engine, {"container": "web"})
    assert result["cause"]["id"] == "out_of_memory"
    assert (result["exit_code"], result["oom_killed"]) == (137, True)


def test_restarts_of_long_ago_do_not_count(script: Script, run_module: Run) -> None:
    script.states = [inspected(restarts=3)]
    assert run_module(llm_engine, {"container": "web"})["ready"] is True


def test_timeout(script: Script, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "POLL", 0.05)
    script.log = recorded("boot-cpu-compiled.log")[:40]
    script.health = [0]
    result = run_module(llm_engine, {"container": "web", "timeout": 0})
    assert "was not ready after 0 s; boot phase:" in result["msg"]
    assert "boot_timeout" in result["msg"]


def test_a_boot_far_longer_than_those_on_record_is_given_up(
    script: Script, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "POLL", 0.05)
    monkeypatch.setattr(history, "PATIENCE_LEAST", 0)
    history.add_boot(tmp_path / "micro-0123456789ab.json", {"at": 1, "seconds": 0.01, "cache": "warm"})
    script.health = [0]
    result = run_module(llm_engine, {"container": "web", "timeout": 600, "history_folder": str(tmp_path)})
    assert "was not ready after 0 s, and its slowest boot on this host took 0.01 s" in result["msg"]
    assert "micro-0123456789ab.json" in result["msg"]


def test_wrong_network(script: Script, run_module: Run) -> None:
    result = run_module(llm_engine, {"container": "web", "network": "other"})
    assert "no address in network other; it is attached to: llm" in result["msg"]
    assert script.asked == []


def test_no_container(script: Script, run_module: Run) -> None:
    script.states = [docker_api.NotFound("No such container", 404)]
    assert "There is no container web" in run_module(llm_engine, {"container": "web"})["msg"]
    result = run_module(llm_engine, {"container": "web"}, check_mode=True)
    assert "failed" not in result
    assert result["ready"] is False


def test_removed_while_waiting(script: Script, run_module: Run) -> None:
    script.health = [0]
    script.states = [inspected(), inspected(), docker_api.NotFound("No such container", 404)]
    assert "There is no container web" in run_module(llm_engine, {"container": "web"})["msg"]


def test_daemon_unreachable(script: Script, run_module: Run) -> None:
    script.states = [docker_api.DockerUnreachable("The Docker daemon does not answer at /x: nobody listens there.")]
    assert "nobody listens there" in run_module(llm_engine, {"container": "web"})["msg"]


def test_check_mode_looks_once(script: Script, run_module: Run) -> None:
    script.health = [0, 200]
    result = run_module(llm_engine, {"container": "web"}, check_mode=True)
    assert result["ready"] is False
    assert len(script.asked) == 1


def test_progress(script: Script, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "p"
    script.health = [0, 200]
    run_module(llm_engine, {"container": "web", "progress_file": str(file)})
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith('{"at":')
    assert '"phase": "ready"' in text


def test_health_of_a_real_socket() -> None:
    assert wait.ask_health("127.0.0.1", 9, "/health") == 0
