"""What is kept of a failed engine: no secret, no flood, and never a failure of its own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_diagnose
import pytest
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import diagnostics

Run = Callable[..., dict[str, Any]]
CANARY = "canary-7f3a9c"


@pytest.mark.parametrize(
    "name", ["VLLM_API_KEY", "HF_TOKEN", "--api-key", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "apikey", "X_AUTH"]
)
def test_secret_names(name: str) -> None:
    assert diagnostics.is_secret(name)


@pytest.mark.parametrize("name", ["MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "VLLM_CACHE_ROOT", "Author"])
def test_other_names(name: str) -> None:
    assert not diagnostics.is_secret(name)


def test_inspection_without_secrets() -> None:
    inspected = {
        "Config": {
            "Env": [f"VLLM_API_KEY={CANARY}", "HOME=/cache", "MAX_TOKENS=5", f"OPTIONS=x {CANARY}"],
            "Cmd": ["--api-key", CANARY, f"--hf-token={CANARY}", "--port", "8000"],
            "Labels": {"owner": "me", "token": CANARY},
        },
        "State": {"Running": True, "Pid": 7, "Error": ""},
    }
    found = diagnostics.masked(inspected, [CANARY])
    assert CANARY not in json.dumps(found)
    assert found["Config"]["Env"] == ["VLLM_API_KEY=***", "HOME=/cache", "MAX_TOKENS=5", "OPTIONS=x ***"]
    assert found["Config"]["Cmd"] == ["--api-key", "***", "--hf-token=***", "--port", "8000"]
    assert found["State"] == inspected["State"]


def test_names_sort_by_time_and_only_ours_are_stale() -> None:
    names = [diagnostics.folder_name(at, "0123456789ab") for at in (3e8, 2e9, 1e9)]
    assert sorted(names) == [names[0], names[2], names[1]]
    assert diagnostics.stale([*names, "notes", ".x"], keep=1) == [names[0], names[2]]
    assert diagnostics.stale(names, keep=5) == []


def test_of_a_log_the_end_is_kept() -> None:
    text = "a" * diagnostics.LARGEST + "END"
    assert diagnostics.bounded(text, end=True).endswith("END")
    assert not diagnostics.bounded(text).endswith("END")
    assert len(diagnostics.bounded(text)) < diagnostics.LARGEST + 20


def test_folders_are_whole_apart_and_few(tmp_path: Path) -> None:
    place = tmp_path / "diagnostics" / diagnostics.folder_name(1e9, "0123456789ab")
    first = diagnostics.write(place, {"a.txt": "1"})
    second = diagnostics.write(place, {"a.txt": "2"}, keep=2)
    assert (first.name, second.name) == (place.name, f"{place.name}.1")
    assert (second / "a.txt").read_text() == "2"
    assert (second.stat().st_mode & 0o777, (second / "a.txt").stat().st_mode & 0o777) == (0o700, 0o600)
    third = diagnostics.write(place.with_name(diagnostics.folder_name(2e9, "0123456789ab")), {}, keep=2)
    assert sorted(p.name for p in place.parent.iterdir()) == [second.name, third.name]


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    secrets = tmp_path / "releases" / "0123456789ab" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "client-key").write_text(f"{CANARY}\n")
    return {"service": "micro", "folder": str(tmp_path), "release": "0123456789ab", "container": "llm-micro-01234567"}


def test_a_container_that_is_gone(arguments: dict[str, Any], run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise docker_api.NotFound("No such container", 404)

    monkeypatch.setattr(docker_api, "inspect", gone)
    monkeypatch.setattr(docker_api, "logs", gone)
    result = run_module(llm_diagnose, {**arguments, "step": "Start", "cause": f"key {CANARY} was wrong"})
    assert "failed" not in result
    assert result["missing"]["log.txt"] == "No such container"
    written = json.loads((Path(result["folder"]) / diagnostics.CAUSE).read_text(encoding="utf-8"))
    assert (written["step"], written["cause"]) == ("Start", "key *** was wrong")
    assert written["missing"] == result["missing"]


@pytest.fixture
def attempts(arguments: dict[str, Any], run_module: Run) -> Callable[..., Path]:
    """Keep one failure of the service, written at a time (seconds since the epoch)."""

    def keep(at: int, **more: Any) -> Path:
        result = run_module(llm_diagnose, {**arguments, "at": "2026-12-01T10:15:30Z", **more})
        place = Path(result["folder"])
        os.utime(place / diagnostics.CAUSE, (at, at))
        return place

    return keep


def test_the_last_attempt_is_the_newest_deployment_that_failed(attempts: Callable[..., Path], tmp_path: Path) -> None:
    assert diagnostics.last_attempt(tmp_path) is None
    attempts(10, attempt=True, step="Wait for the engine", cause="older")
    newest = attempts(20, attempt=True, step="Ask the engine", cause="answer:\n\n  “Lyon”\n" + "x" * 500)
    attempts(30, step="supervised: hung", cause="no progress")
    (attempts(40, attempt=True) / diagnostics.CAUSE).write_text("{")
    assert diagnostics.last_attempt(tmp_path) == (
        20,
        {
            "at": "2026-12-01T10:15:30Z",
            "release": "0123456789ab",
            "step": "Ask the engine",
            "cause": "answer: “Lyon” " + "x" * (diagnostics.SHORT - 16) + "…",
            "folder": str(newest),
        },
    )


def test_no_room_is_no_failure(arguments: dict[str, Any], run_module: Run, tmp_path: Path) -> None:
    (tmp_path / "diagnostics").touch()
    result = run_module(llm_diagnose, arguments)
    assert "failed" not in result
    assert (result["folder"], result["changed"]) == ("", False)
    assert any("diagnostics" in name for name in result["missing"])


def test_check_mode_collects_nothing(arguments: dict[str, Any], run_module: Run, tmp_path: Path) -> None:
    assert run_module(llm_diagnose, arguments, check_mode=True)["folder"] == ""
    assert not (tmp_path / "diagnostics").exists()
