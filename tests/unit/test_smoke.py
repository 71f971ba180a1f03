"""How answers are judged, and the module's checks against a stub engine that gets each of them wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_smoke
import pytest
from ansible.module_utils.llm import client, smoke

KEY = "k-right-key-of-the-stub"
Start = Callable[..., dict[str, Any]]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def service(stub_engine: Start) -> Start:
    """Start the stub; its context is short, so the answers are as well."""
    return lambda *faults: {**stub_engine(*faults), "max_tokens": 100}


@pytest.mark.parametrize(
    ("text", "expected", "finish", "thinking", "ok", "words"),
    [
        ("The capital is PARIS.", "paris", "stop", "", True, "PARIS"),
        ("It is Rome.", "Paris", "stop", "", False, "does not hold “Paris”"),
        ("", "Paris", "length", "hm, let me see", False, "max_tokens"),
        ("  ", "", "stop", "", False, "empty"),
        ("", "Paris", None, "", False, "finish reason None"),
    ],
)
def test_judge_answer(text: str, expected: str, finish: str | None, thinking: str, ok: bool, words: str) -> None:
    found = smoke.judge_answer(text, expected, finish, thinking=thinking)
    assert (found[0], words in found[1]) == (ok, True), found


@pytest.mark.parametrize(
    ("pieces", "finish", "tokens", "whole", "ok", "words"),
    [
        (["Par", "is"], "stop", 2, "Paris", True, "2 pieces, first after 50 ms, 2 tokens, finish reason stop"),
        (["Par", "is"], "stop", 2, "Paris!", True, "not word for word"),
        (["Paris"], "stop", 2, "Paris", False, "1 piece"),
        (["Par", "is"], None, 2, "Paris", False, "cut off"),
        (["Par", "is"], "stop", None, "Paris", False, "no usage"),
        (["Ro", "me"], "stop", 2, "Rome", False, "same wrong one"),
        (["Ro", "me"], "stop", 2, None, False, "streamed: “Rome”"),
        ([], "stop", 2, "Paris", False, "empty"),
    ],
)
def test_judge_stream(
    pieces: list[str], finish: str | None, tokens: int | None, whole: str | None, ok: bool, words: str
) -> None:
    found = smoke.judge_stream(
        pieces, "Paris", finish_reason=finish, completion_tokens=tokens, whole=whole, first_seconds=0.05
    )
    assert (found[0], words in found[1]) == (ok, True), found


@pytest.mark.parametrize(("status", "ok"), [(401, True), (200, False), (403, False), (0, False), (500, False)])
def test_judge_refusal(status: int, ok: bool) -> None:
    assert smoke.judge_refusal(status, "why", "no key")[0] is ok


@pytest.mark.parametrize(("status", "ok"), [(200, True), (503, False), (0, False)])
def test_judge_health(status: int, ok: bool) -> None:
    assert smoke.judge_health(status, "why", "http://x/health")[0] is ok


@pytest.mark.parametrize(
    ("base", "health"),
    [
        ("http://127.0.0.1:5000/v1", "http://127.0.0.1:5000/health"),
        ("https://api.example.org/llm/v1/?x=1", "https://api.example.org/health"),
    ],
)
def test_health_url(base: str, health: str) -> None:
    assert smoke.health_url(base) == health


def test_explain_follows_causes_and_hides_secrets() -> None:
    error = RuntimeError("Connection error.")
    error.__cause__ = OSError(f"refused for {KEY}")
    assert client.explain(error, [KEY]) == (0, "Connection error.; refused for ***")
    assert client.explain(ValueError()) == (0, "ValueError")


def test_read_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(ValueError, match="No such file"):
        client.read_key({"api_key": None, "api_key_file": str(file)})
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        client.read_key({"api_key": None, "api_key_file": str(file)})
    file.write_text("k-1\n")
    assert client.read_key({"api_key": None, "api_key_file": str(file)}) == "k-1"
    assert client.read_key({"api_key": "k-2", "api_key_file": None}) == "k-2"


def failed_checks(result: dict[str, Any]) -> set[str]:
    checks = result["verdict"]["services"]["micro"]["checks"]
    assert [check["id"] for check in checks] == list(smoke.CHECKS)
    return {check["id"] for check in checks if not check["ok"]}


def test_all_right(service: Start, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "reports" / "verdict.json"
    result = run_module(llm_smoke, {**service(), "verdict_file": str(file)})
    assert failed_checks(result) == set()
    assert result["ok"] is True
    assert result["changed"] is False
    assert result["answer"] == "It is Paris."
    assert result["ttft_ms"] > 0
    assert json.loads(file.read_text(encoding="utf-8")) == result["verdict"]
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("sick", {"health"}),
        ("other_model", {"models"}),
        ("open", {"no_key_refused", "wrong_key_refused"}),
        ("forbids", {"no_key_refused", "wrong_key_refused"}),
        ("wrong", {"answer", "streaming"}),
        ("empty", {"answer", "streaming"}),
        ("one_piece", {"streaming"}),
        ("cut", {"streaming"}),
        ("no_usage", {"streaming"}),
        ("broken", {"answer", "streaming"}),
    ],
)
def test_each_fault_is_found(service: Start, run_module: Run, fault: str, failed: set[str]) -> None:
    result = run_module(llm_smoke, service(fault))
    assert result["failed"] is True
    assert result["ok"] is False
    assert failed_checks(result) == failed
    assert f"{len(failed)} of {len(smoke.CHECKS)} checks failed" in result["msg"]
    assert KEY not in json.dumps({key: value for key, value in result.items() if key != "invocation"})


def test_wrong_key_given(service: Start, run_module: Run) -> None:
    result = run_module(llm_smoke, {**service(), "api_key": "k-another-key-entirely"})
    assert failed_checks(result) == {"models", "answer", "streaming"}
    assert "not one of the service's keys" in result["msg"]
    assert "k-another-key-entirely" not in json.dumps(result)


@pytest.mark.parametrize(("fault", "failed"), [("slow", {"answer", "streaming"}), ("drip", {"streaming"})])
def test_never_hangs(service: Start, run_module: Run, fault: str, failed: set[str]) -> None:
    result = run_module(llm_smoke, {**service(fault), "timeout": 1})
    assert failed_checks(result) == failed
    assert "no complete answer within 1 s" in result["msg"]


def test_nobody_there(run_module: Run, service: Start) -> None:
    result = run_module(llm_smoke, {**service(), "base_url": "http://127.0.0.1:9/v1"})
    assert failed_checks(result) == set(smoke.CHECKS)
    assert "refused" in result["msg"]


def test_check_mode_asks_and_writes_nothing(service: Start, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    result = run_module(llm_smoke, {**service(), "verdict_file": str(file)}, check_mode=True)
    assert result["ok"] is True
    assert not file.exists()
    assert "verdict_file" not in result


def test_verdict_of_other_services_is_kept(service: Start, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    other = {"ok": False, "checks": [{"id": "health", "ok": False, "seconds": 1.0, "evidence": "down"}]}
    file.write_text(json.dumps({"ok": False, "services": {"other": other}}))
    run_module(llm_smoke, {**service(), "verdict_file": str(file)})
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["services"]["other"] == other
    assert written["services"]["micro"]["ok"] is True
    assert written["ok"] is False


def test_verdict_file_that_cannot_be_written(service: Start, run_module: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_module(llm_smoke, {**service(), "verdict_file": str(tmp_path / "file" / "verdict.json")})
    assert result["failed"] is True
    assert "verdict_file" in result["msg"]
    assert result["ok"] is True


def test_proxies_are_not_asked(service: Start, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert run_module(llm_smoke, service())["ok"] is True


def test_missing_sdk(run_module: Run, service: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_smoke, "OPENAI_ERROR", "No module named 'openai'")
    assert "role host_tools" in run_module(llm_smoke, service())["msg"]


def test_a_key_is_required(run_module: Run, service: Start) -> None:
    arguments = {key: value for key, value in service().items() if key != "api_key"}
    assert "api_key" in run_module(llm_smoke, arguments)["msg"]
    assert "No such file" in run_module(llm_smoke, {**arguments, "api_key_file": "/nosuch/key"})["msg"]
