"""How answers are judged, and the module's checks against a stub engine that gets each of them wrong."""

import base64
import itertools
import json
import random
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llm_smoke
import pytest
from ansible.module_utils.llm.declare.checks import CHECKS
from ansible.module_utils.llm.engine import checks, history, judge
from ansible.module_utils.llm.engine import sdk as engine_sdk
from ansible.module_utils.llm.engine.judge import known

GATE = [a.id for a in judge.applying({}, "gate")]
KEY = "k-right-key-of-the-stub"
Start = Callable[..., dict[str, Any]]
Run = Callable[..., dict[str, Any]]
Tls = Callable[[], str]


@pytest.fixture
def service(stub_engine: Start) -> Start:
    """Start the stub; its context is short, so the answers are as well."""
    return lambda *faults, **ask: stub_engine(*faults, max_tokens=100, **ask)


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
    found = judge.judge_answer(text, expected, finish, thinking=thinking)
    assert (found.ok, words in f"{found.evidence}. {found.remedy}") == (ok, True), found


@pytest.mark.parametrize(
    ("pieces", "finish", "tokens", "whole", "ok", "words"),
    [
        (["Par", "is"], "stop", 2, "Paris", True, "2 pieces, first after 50 ms, 2 tokens, finish reason stop"),
        (["Par", "is"], "stop", 2, "PARIS", True, "not word for word"),
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
    found = judge.judge_stream(
        pieces,
        "Paris",
        finish_reason=finish,
        completion_tokens=tokens,
        whole=whole,
        whole_tokens=tokens,
        first_seconds=0.05,
    )
    assert (found.ok, words in f"{found.evidence}. {found.remedy}") == (ok, True), found


@pytest.mark.parametrize(
    ("pieces", "tokens", "whole", "whole_tokens", "ok"),
    [
        (["It ", "Paris", "."], 4, "It is Paris.", 4, False),
        (["is ", "Paris", "."], 4, "It is Paris.", 4, False),
        (["It ", "is ", "Paris"], 4, "It is Paris.", 4, False),
        (["It ", "is ", "Paris."], 4, "\n\nIt is Paris.\n", 4, True),
        # Another answer than before, as an engine that batches may give: it took other tokens, or says something else.
        (["Paris", "."], 3, "It is Paris.", 4, True),
        (["It's ", "Paris", "."], 4, "It is Paris.", 4, True),
        (["It ", "is ", "Paris", "!"], 4, "It is Paris.", 4, True),
        # Nothing to compare with.
        (["It ", "Paris", "."], 4, None, None, True),
        (["It ", "Paris", "."], 4, "It is Paris.", None, True),
    ],
)
def test_lost_pieces_are_told_from_another_answer(
    pieces: list[str], tokens: int, whole: str | None, whole_tokens: int | None, ok: bool
) -> None:
    found = judge.judge_stream(
        pieces,
        "Paris",
        finish_reason="stop",
        completion_tokens=tokens,
        whole=whole,
        whole_tokens=whole_tokens,
        first_seconds=0.05,
    )
    assert (found.ok, "pieces were lost" in found.evidence) == (ok, not ok), found


@pytest.mark.parametrize(("status", "ok"), [(401, True), (200, False), (403, False), (0, False), (500, False)])
def test_judge_refusal(status: int, ok: bool) -> None:
    assert judge.judge_refusal(status, "why", "no key")[0] is ok


@pytest.mark.parametrize(("status", "ok"), [(200, True), (503, False), (0, False)])
def test_judge_health(status: int, ok: bool) -> None:
    assert judge.judge_health(status, "why", "http://x/health")[0] is ok


@pytest.mark.parametrize(
    ("base", "health"),
    [
        ("http://127.0.0.1:5000/v1", "http://127.0.0.1:5000/health"),
        ("https://api.example.org/llm/v1/?x=1", "https://api.example.org/health"),
    ],
)
def test_health_url(base: str, health: str) -> None:
    assert judge.health_url(base) == health


def test_explain_follows_causes_and_hides_secrets() -> None:
    error = RuntimeError("Connection error.")
    error.__cause__ = OSError(f"refused for {KEY}")
    assert engine_sdk.explain(error, [KEY]) == (0, "Connection error.; refused for ***")
    assert engine_sdk.explain(ValueError()) == (0, "ValueError")


def test_read_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(ValueError, match="No such file"):
        engine_sdk.read_key({"api_key": None, "api_key_file": str(file)})
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        engine_sdk.read_key({"api_key": None, "api_key_file": str(file)})
    file.write_text("k-1\n")
    assert engine_sdk.read_key({"api_key": None, "api_key_file": str(file)}) == "k-1"
    assert engine_sdk.read_key({"api_key": "k-2", "api_key_file": None}) == "k-2"


def failed_checks(result: dict[str, Any]) -> set[str]:
    checks = result["verdict"]["services"]["micro"]["checks"]
    assert [check["id"] for check in checks] == list(GATE)
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
        ("lossy", {"streaming"}),
        ("cut", {"streaming"}),
        ("no_usage", {"streaming"}),
        ("early_usage", {"streaming"}),
        ("broken", {"answer", "repetition", "fixed_text", "streaming"}),
    ],
)
def test_each_fault_is_found(service: Start, run_module: Run, fault: str, failed: set[str]) -> None:
    result = run_module(llm_smoke, service(fault))
    assert result["failed"] is True
    assert result["ok"] is False
    assert failed_checks(result) == failed
    assert f"{len(failed)} of {len(GATE)} checks failed" in result["msg"]
    assert KEY not in json.dumps({key: value for key, value in result.items() if key != "invocation"})


def test_wrong_key_given(service: Start, run_module: Run) -> None:
    result = run_module(llm_smoke, {**service(), "api_key": "k-another-key-entirely"})
    assert failed_checks(result) == {"models", "answer", "repetition", "fixed_text", "streaming"}
    assert "not one of the service's keys" in result["msg"]
    assert "k-another-key-entirely" not in json.dumps(result)


@pytest.mark.parametrize(
    ("fault", "failed"),
    [("slow", {"answer", "repetition", "fixed_text", "streaming"}), ("drip", {"streaming"})],
)
def test_never_hangs(service: Start, run_module: Run, fault: str, failed: set[str]) -> None:
    result = run_module(llm_smoke, service(fault, timeout=2))
    assert failed_checks(result) == failed
    assert "no complete answer within" in result["msg"]


def test_nobody_there(run_module: Run, service: Start) -> None:
    result = run_module(llm_smoke, {**service(), "base_url": "http://127.0.0.1:9/v1"})
    assert failed_checks(result) == set(GATE)
    assert "refused" in result["msg"] and "not asked: nobody answers there" in result["msg"]


def test_check_mode_asks_and_writes_nothing(service: Start, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    result = run_module(llm_smoke, {**service(), "verdict_file": str(file)}, check_mode=True)
    assert result["ok"] is True
    assert not file.exists()
    assert "verdict_file" not in result


def test_verdict_of_other_services_is_kept(service: Start, run_module: Run, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    other = {"ok": False, "checks": [{"id": "health", "ok": False, "seconds": 1.0, "evidence": "down", "remedy": "up"}]}
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


BOTH = {"enable-auto-tool-choice": True, "tool-call-parser": "hermes", "reasoning-parser": "qwen3"}


def ids(args: dict[str, Any], depth: str, **more: Any) -> set[str]:
    return {a.id for a in judge.applying(args, depth, **more)}


def test_which_checks_apply_follows_from_the_declaration() -> None:
    plain, full = ids({}, "gate"), ids({}, "full")
    assert plain < full and not any(name.startswith(("tool", "reasoning", "needle", "vision")) for name in full)
    assert ids(BOTH, "gate") - plain == {"reasoning", "tool_auto"}
    assert ids({}, "gate", history=True) - plain == {"speed"}
    whole = ids(BOTH, "full", vision=True, room=20_000, needle=20_000, history=True)
    assert whole == {asked.id for asked in CHECKS}
    assert "tool_auto" not in ids({"tool-call-parser": "hermes"}, "full")
    assert "vision" not in ids({"limit-mm-per-prompt": {"image": 0}}, "full", vision=True)
    assert "shared_prefix" not in ids({"enable-prefix-caching": False}, "full")
    assert "chunked_prefill" not in ids({}, "full", room=2048)
    assert "chunked_prefill" in ids({"max-num-batched-tokens": 512}, "full", room=2048)
    assert all(callable(getattr(checks.Client, asked.id)) for asked in CHECKS)


def test_the_documentation_names_every_check() -> None:
    page = (Path(__file__).parents[3] / "docs" / "smoke.md").read_text(encoding="utf-8")
    table = page.partition("## The verdict")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    told = {(name.strip(), depth.strip()) for names, depth in rows for name in names.split(",")}
    assert told == {(asked.id, asked.depth) for asked in CHECKS}


def test_what_is_known_of_a_model_is_overridden_by_its_service() -> None:
    model = {"question": "Q", "answer": "A", "unable": {"tool_parallel": "small"}}
    found = known(model, {"question": "R", "answer": "B"}, {"max-model-len": 2048}, context=8192, vision=False)
    assert (found["question"], found["unable"], found["needle"]) == ("R", {"tool_parallel": "small"}, 2048)
    cases: list[tuple[dict[str, Any], float | None]] = [
        ({}, 2.5),
        ({"question": "R"}, None),
        ({"question": "R", "margin": 2.0}, 2.0),
    ]
    for own, margin in cases:
        assert known({**model, "margin": 2.5}, own, {}, context=0, vision=False).get("margin") == margin, (
            "of another question"
        )
    found = known({"needle": 0}, {}, {"max-model-len": "auto"}, context=8192, vision=True)
    assert (found["needle"], found["context"], found["vision"]) == (0, 8192, True)
    for no_images in ({"limit-mm-per-prompt": {"image": 0}}, {"language-model-only": True}):
        assert known({}, {}, no_images, context=8192, vision=True)["vision"] is False


@pytest.mark.parametrize(
    ("calls", "text", "ok", "words"),
    [
        ([("get_weather", '{"city": "Paris, France"}')], "", True, "get_weather"),
        ([], '<tool_call>{"name": "get_weather"}', False, "`tool-call-parser`"),
        ([("get_weather", '{"city": ')], "", False, "no JSON"),
        ([("get_weather", '{"city": "Rome"}')], "", False, "get_weather with Paris was to be called"),
        ([("get_weather", "[]")], "", False, "no JSON"),
        ([("get_time", '{"city": "Paris"}')], "", False, "get_time was called"),
    ],
)
def test_judge_calls(calls: list[tuple[str, str]], text: str, ok: bool, words: str) -> None:
    found = judge.judge_calls(calls, ["Paris"], text, "stop")
    assert (found.ok, words in f"{found.evidence}. {found.remedy}") == (ok, True), found


@pytest.mark.parametrize(
    ("calls", "ok"),
    [
        ([("get_weather", '{"city": "Rome"}'), ("get_weather", '{"city": "Paris"}')], True),
        ([("get_weather", '{"city": "Paris"}')], False),
        ([("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "Paris"}')], False),
    ],
)
def test_two_calls_at_once(calls: list[tuple[str, str]], ok: bool) -> None:
    assert judge.judge_calls(calls, ["Paris", "Rome"], "", "tool_calls").ok is ok


@pytest.mark.parametrize(("arguments", "ok"), [("{}", True), ("", False), ("null", False), ('{"a": 1}', False)])
def test_a_call_without_arguments(arguments: str, ok: bool) -> None:
    assert judge.judge_bare_call([("get_time", arguments)], "", "tool_calls").ok is ok
    assert not judge.judge_bare_call([], "get_time", "stop").ok


def test_thoughts_within_the_answer_are_no_answer() -> None:
    found = judge.judge_answer("<think>Paris it is.</think> Paris.", "Paris", "stop")
    assert not found.ok and "`reasoning-parser`" in found.remedy
    found = judge.judge_reasoning("", "Paris.", "Paris", "stop")
    assert not found.ok and "`reasoning-parser`" in found.remedy
    assert judge.judge_reasoning("Hm.", "Paris.", "Paris", "stop")[0]


@pytest.mark.parametrize(
    ("answers", "alive", "ok", "words"),
    [
        ({"a": 400, "b": 404}, True, True, "a: 400"),
        ({"a": 400, "b": 200}, True, False, "b got 200 instead of 4xx"),
        ({"a": 500}, True, False, "a got 500"),
        ({"a": 0}, True, False, "a got no answer"),
        ({"a": 400}, False, False, "not healthy"),
    ],
)
def test_judge_bad_requests(answers: dict[str, int], alive: bool, ok: bool, words: str) -> None:
    found = judge.judge_bad_requests(answers, alive=alive)
    assert (found.ok, words in f"{found.evidence}. {found.remedy}") == (ok, True), found


def test_what_a_stream_lost_is_seen() -> None:
    assert judge.judge_unicode([judge.UNICODE[:5], judge.UNICODE[5:]])[0]
    assert not judge.judge_unicode([judge.UNICODE[:5], judge.UNICODE[6:]])[0]
    assert not judge.judge_unicode([judge.UNICODE.replace("京", "\ufffd")])[0]


@pytest.mark.parametrize(
    ("text", "finish", "ok"), [("It is ", "stop", True), ("It is Paris.", "stop", False), ("It is ", "length", False)]
)
def test_judge_stop(text: str, finish: str, ok: bool) -> None:
    assert judge.judge_stop(text, "Paris", finish)[0] is ok
    assert judge.STOP_TEXT.endswith(judge.STOP_WORD) and judge.STOP_TEXT.count(judge.STOP_WORD) == 1


USUAL = judge.Speed(100.0, 50.0)


@pytest.mark.parametrize(
    ("found", "usual", "share", "ok"),
    [
        (judge.Speed(90.0, 60.0), USUAL, 0.3, True),
        (judge.Speed(29.0, 60.0), USUAL, 0.3, False),
        (judge.Speed(90.0, 360.0), USUAL, 0.3, True),
        (judge.Speed(90.0, 370.0), USUAL, 0.3, False),
        (judge.Speed(1.0, 9999.0), USUAL, 0, True),
        (judge.Speed(1.0, 9999.0), None, 0.3, True),
    ],
)
def test_a_speed_is_judged_by_what_the_release_did_before(
    found: judge.Speed, usual: judge.Speed | None, share: float, ok: bool
) -> None:
    judged = judge.judge_speed(found, usual, share)
    assert judged.ok is ok
    assert ("caches may be damaged" in judged.remedy) is not ok
    busy = judge.judge_speed(found, usual, share, busy=True)
    assert busy.ok and bool(busy.remedy) is not ok, "what else the machine does is no fault of the release"


@pytest.mark.parametrize(
    ("waiting", "cores", "busy"), [([], 2, False), ([5, 5, 5], 2, False), ([6, 6, 1], 2, True), ([9, 1, 1], 2, False)]
)
def test_a_machine_is_crowded_by_twice_as_many_tasks_as_cores(waiting: list[int], cores: int, busy: bool) -> None:
    assert judge.crowded(waiting, cores) is busy


def test_speeds_are_recorded_and_a_slow_engine_is_told(
    service: Start, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "runnable", lambda: 1)  # whatever else this machine does
    arguments = {**service(), "history_folder": str(tmp_path), "release": "0123456789ab"}
    first = run_module(llm_smoke, arguments)
    assert first["ok"] and not first["slow"]
    file = tmp_path / "micro-0123456789ab.json"
    (recorded,) = history.read(file)["speeds"]
    assert recorded["tokens_per_second"] > 0 and recorded["ttft_ms"] > 0
    history.add_speed(file, {"at": 1, "tokens_per_second": 1e12, "ttft_ms": 1.0})
    history.add_speed(file, {"at": 2, "tokens_per_second": 1e12, "ttft_ms": 1.0})
    again = run_module(llm_smoke, arguments)
    assert again["slow"] and not again["ok"] and "caches may be damaged" in again["msg"]
    assert len(history.read(file)["speeds"]) == 3, "a speed that failed is not what the next one is held against"


def test_what_a_model_is_unable_to_do_is_left_out_and_said(service: Start, run_module: Run) -> None:
    result = run_module(llm_smoke, service("one_piece", unable={"streaming": "says all at once", "n": "not asked"}))
    assert result["ok"] and result["left_out"] == {"streaming": "says all at once"}
    assert "1 left out: streaming: says all at once" in result["msg"]


def test_a_slow_engine_ends_it_and_what_was_not_asked_has_failed(
    service: Start, run_module: Run, tmp_path: Path
) -> None:
    file = tmp_path / "verdict.json"
    arguments = {**service("slow", timeout=2), "depth": "full", "verdict_file": str(file)}
    checks = run_module(llm_smoke, arguments)["verdict"]["services"]["micro"]["checks"]
    first = next(n for n, c in enumerate(checks) if c["evidence"].startswith("not asked"))
    assert all("no complete answer within" in c["evidence"] for c in checks[first - 2 : first])
    assert {c["evidence"] for c in checks[first:]} == {"not asked: 2 checks in a row got no complete answer"}
    assert json.loads(file.read_text(encoding="utf-8"))["services"]["micro"]["checks"] == checks


def test_an_address_with_the_wrong_scheme_is_told(service: Start, run_module: Run) -> None:
    arguments = service()
    result = run_module(llm_smoke, {**arguments, "base_url": arguments["base_url"].replace("http:", "https:")})
    assert "SSL" in result["msg"] and not result["ok"]


def test_a_certificate_that_nobody_vouches_for_is_told(service: Start, run_module: Run, tls: Tls) -> None:
    result = run_module(llm_smoke, {**service(), "base_url": tls()})
    assert not result["ok"] and "CERTIFICATE_VERIFY_FAILED" in result["msg"]
    assert "not asked: nobody answers there" in result["msg"]


def test_a_path_that_is_not_the_engines_is_told(service: Start, run_module: Run) -> None:
    arguments = service()
    result = run_module(llm_smoke, {**arguments, "base_url": arguments["base_url"].replace("/v1", "/v2")})
    assert {"models", "answer", "streaming"} <= failed_checks(result)
    assert "404" in result["msg"] and "Check `base_url` (it ends with /v1)" in result["msg"]


class SeeingStub(BaseHTTPRequestHandler):
    """A stub of an engine with a vision model: it reads the picture of a request with code of its own, and names its colours.

    It stands for what the CPU build of the engine can't do, and shows that the request and the picture are well-formed.
    """

    blind = False

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, text = request["messages"][-1]["content"]
        assert (image["type"], text["type"]) == ("image_url", "text")
        kind, _, data = image["image_url"]["url"].partition(",")
        assert kind == "data:image/png;base64"
        left, right = self.colours(base64.b64decode(data))
        said = "Two colours." if self.blind else f"{left} {right}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def colours(png: bytes) -> tuple[str, str]:
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        parts, rest = {}, png[8:]
        while rest:
            (size,) = struct.unpack(">I", rest[:4])
            kind, data, sum_ = rest[4:8], rest[8 : 8 + size], rest[8 + size : 12 + size]
            assert struct.unpack(">I", sum_) == (zlib.crc32(kind + data),)
            parts[kind], rest = data, rest[12 + size :]
        width, height, depth, colour = struct.unpack(">IIBB", parts[b"IHDR"][:10])
        assert (depth, colour) == (8, 2) and list(parts)[-1] == b"IEND"
        pixels = zlib.decompress(parts[b"IDAT"])
        assert len(pixels) == height * (1 + 3 * width)
        names = {value: name for name, value in judge.COLOURS.items()}
        first, last = pixels[1:4], pixels[3 * width - 2 : 3 * width + 1]
        return names[tuple(first)], names[tuple(last)]  # type: ignore[index]

    def log_message(self, *_args: Any) -> None:
        return


@pytest.mark.parametrize("blind", [False, True])
def test_vision_is_asked_with_a_picture_that_a_named_stub_reads(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    monkeypatch.setattr(SeeingStub, "blind", blind)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SeeingStub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    others = {a.id: "not of interest" for a in CHECKS if a.id != "vision"}
    arguments = {
        "service": "eye",
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "api_key": KEY,
        "ask": {"model": "eye", "vision": True, "unable": others},
    }
    try:
        result = run_module(llm_smoke, {**arguments, "depth": "full"})
    finally:
        server.shutdown()
        server.server_close()
    (check,) = result["verdict"]["services"]["eye"]["checks"]
    assert (check["id"], check["ok"]) == ("vision", not blind), check


@pytest.mark.parametrize(
    ("text", "ok"),
    [("Red, blue.", True), ("Blue, red.", False), ("red", False), ("The left half is red, the right one blue", True)],
)
def test_judge_vision(text: str, ok: bool) -> None:
    assert judge.judge_vision(text, "red", "blue").ok is ok


@pytest.mark.parametrize(
    ("events", "ok"),
    [
        (judge.ANTHROPIC_EVENTS, True),
        (("ping", *judge.ANTHROPIC_EVENTS), True),
        ((*judge.ANTHROPIC_EVENTS[:4], *judge.ANTHROPIC_EVENTS[1:]), True),
        (judge.ANTHROPIC_EVENTS[:-1], False),
        (tuple(reversed(judge.ANTHROPIC_EVENTS)), False),
        ((), False),
    ],
)
def test_judge_events(events: tuple[str, ...], ok: bool) -> None:
    assert judge.judge_events(events, "Paris", "Paris", "end_turn").ok is ok


def test_a_needle_is_told_after_its_share_of_the_text() -> None:
    for share in (0.1, 0.5, 0.9):
        text = judge.haystack(500, share, "tiger", random.Random(1))
        assert abs(text.index("tiger") / len(text) - share) < 0.05
        assert text.endswith(judge.NEEDLE_QUESTION)


def test_other_judgements() -> None:
    assert judge.judge_prefix(700.0, 900, [1.0, 0.1]).ok and not judge.judge_prefix(100.0, 900, [1.0, 1.0]).ok
    assert not judge.judge_prefix(None, 900, [1.0, 1.0]).ok
    assert judge.judge_structured('{"city": "Rome", "capital": true, "rivers": ["Tiber"]}', "stop").ok
    assert not judge.judge_structured('{"city": "Rome", "capital": "yes", "rivers": ["Tiber"]}', "stop").ok
    assert not judge.judge_structured('{"city": "Ro', "length").ok
    blanks = '{"city": "Rome",' + "\n" * 40
    assert judge.judge_structured(blanks, "length").ok and not judge.judge_structured(blanks, "stop").ok
    assert not judge.judge_structured('{"town": "Rome",' + "\n" * 40, "length").ok
    assert judge.judge_logprobs([("a", -0.5, 2)], 2).ok and not judge.judge_logprobs([("a", 0.5, 2)], 2).ok
    assert not judge.judge_logprobs([], 2).ok
    assert not judge.judge_no_reasoning("hm", "Paris", "Paris", "stop").ok


@pytest.mark.parametrize(
    ("left", "ok", "words"),
    [
        (judge.Left(0.0, 0.0, 0.2, most=4096, computed=9.0), True, "given up 0.2 s after"),
        (judge.Left(0.0, 0.0, 0.2, most=4096), True, "given up"),
        (judge.Left(0.0, 1.0, 20.0, most=4096, computed=900.0), False, "still working 20.0 s after"),
        (judge.Left(0.0, 0.0, 9.0, most=4096, computed=4096.0), False, "not given up"),
        (judge.Left(0.0, 0.0, 0.1, ended=True), False, "ended before it was left"),
        (judge.Left(2.0, 2.0, 0.3, most=4096), True, "0.3 s after the client had left, beside 2 requests of others"),
        (judge.Left(2.0, 3.0, 20.0, most=4096), False, "still working 20.0 s after"),
        (judge.Left(None), False, "don't tell"),
        (judge.Left(0.0, None), False, "don't tell"),
    ],
)
def test_judge_cancel(left: judge.Left, ok: bool, words: str) -> None:
    found = judge.judge_cancel(left)
    assert (found.ok, words in found.evidence, bool(found.remedy)) == (ok, True, not ok), found


@pytest.mark.parametrize(
    ("tokens", "text", "secret", "thinking", "ok"),
    [
        (600, "The word is tiger.", "tiger", "", True),
        (600, "The word is lion.", "tiger", "", False),
        (600, "", "tiger", "tiger, I think", False),
        (600, "lion, or what", "", "", True),
        (600, "", "", "let me see", True),
        (600, "", "", "", False),
        (600, "!!!!!!!! !!!!", "", "", False),
        (600, "!", "", "", True),
        (500, "The word is tiger.", "tiger", "", False),
    ],
)
def test_judge_chunks(tokens: int, text: str, secret: str, thinking: str, ok: bool) -> None:
    assert judge.judge_chunks(tokens, 512, text, secret, "stop", thinking=thinking).ok is ok


@pytest.mark.parametrize(
    ("hits", "queries", "sure"),
    [(800.0, 900.0, 800.0), (800.0, None, 800.0), (800.0, 1000.0, 700.0), (800.0, 2900.0, 0.0), (800.0, 0.0, 800.0)],
)
def test_what_others_may_have_found_in_the_cache_is_not_counted(
    hits: float, queries: float | None, sure: float
) -> None:
    assert judge.own_hits(hits, queries, 900) == sure


def test_one_wrong_answer_of_many_fails_all_of_them() -> None:
    right, wrong = judge.Judgement(True, "“Paris”"), judge.Judgement(False, "“Rome”", "Look.")
    assert judge.judge_all([right] * 16, "at once", 1.0).ok and judge.judge_choices([right] * 2, 2).ok
    for found in (judge.judge_all([right, wrong], "at once", 1.0), judge.judge_choices([right, wrong], 2)):
        assert not found.ok and found.remedy == "Look." and "1 of 2" in found.evidence and "“Rome”" in found.evidence
    assert not judge.judge_choices([right], 2).ok


@pytest.mark.parametrize(
    ("finish", "tokens", "ok"),
    [("length", 1, True), ("stop", 1, True), ("length", 2, False), ("length", None, False), (None, 1, False)],
)
def test_judge_short(finish: str | None, tokens: int | None, ok: bool) -> None:
    assert judge.judge_short(finish, tokens).ok is ok


def test_which_model_has_to_find_a_word_in_a_prompt_of_several_chunks() -> None:
    assert judge.finds(600, {}, 600) and judge.finds(600, {"tool_auto": "untaught"}, 600)
    assert not judge.finds(60, {}, 600) and not judge.finds(600, {"needle_50": "small"}, 600)


class FakeService(checks.Client):
    """A service whose engine is a few numbers: metrics that tests script, and answers by a function of the request."""

    def __init__(self, say: Callable[[dict[str, Any]], str] = lambda _request: "It is Paris.", **changes: Any) -> None:
        params = {"question": "Capital?", "answer": "Paris", "max_tokens": 100, "context": 4096, "needle": 4096}
        params |= {
            "args": {},
            "unable": {},
            "timeout": 60,
            "model": "fake",
            "base_url": "http://fake/v1",
            "accelerator": "cpu",
        }
        super().__init__({**params, "health_url": None, **changes}, KEY, None, None)
        self.say = say
        self.asked: list[dict[str, Any]] = []
        self.loads: list[float | None] = []  # what the engine has, one look after the other; the last one stays
        self.counts = {"hits": 0.0, "queries": 0.0, "made": 0.0}
        self.meanwhile: list[dict[str, float]] = []  # what others add to the counts with each of our requests
        self.cached_tokens: int | None = None
        self.caches = True
        self.streamed = 1.0  # tokens that a stream takes the engine, whatever its client does

    def load(self) -> float | None:
        return self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]

    def metric(self, *names: str) -> tuple[float | None, ...]:
        of = {
            "vllm:prefix_cache_hits_total": "hits",
            "vllm:prefix_cache_queries_total": "queries",
            "vllm:generation_tokens_total": "made",
        }
        return tuple(self.counts[of[name]] for name in names)

    def create(self, **options: Any) -> Any:
        request = {**self.request(), **options}
        content = request["messages"][-1]["content"]
        tokens = 20 + len(content.split())
        seen = self.caches and any(r["messages"][-1]["content"][:99] == content[:99] for r in self.asked)
        self.asked.append(request)
        for name, more in (self.meanwhile.pop(0) if self.meanwhile else {}).items():
            self.counts[name] += more
        self.counts["queries"] += tokens
        self.counts["hits"] += tokens - 8 if seen else 0
        details = None if self.cached_tokens is None else SimpleNamespace(cached_tokens=self.cached_tokens)
        usage = SimpleNamespace(prompt_tokens=tokens, completion_tokens=1, prompt_tokens_details=details)
        text = self.say(request)
        message = SimpleNamespace(content=text, reasoning=None, reasoning_content=None)
        choice = SimpleNamespace(message=message, finish_reason="length")
        return SimpleNamespace(choices=[choice] * request.get("n", 1), usage=usage)

    @contextmanager
    def stream(self, **options: Any) -> Iterator[Any]:
        self.asked.append(options)
        self.counts["made"] += self.streamed
        yield iter([SimpleNamespace(choices=[SimpleNamespace(finish_reason=None)])])


def test_each_of_the_requests_at_once_has_to_be_answered_rightly() -> None:
    assert FakeService().together().ok
    turn = itertools.count()
    found = FakeService(lambda _request: "It is Rome." if next(turn) == 11 else "It is Paris.").together()
    assert not found.ok and found.evidence.startswith("1 of 16 requests at once failed: “It is Rome.”")

    def broken(_request: dict[str, Any]) -> str:
        raise OSError(f"refused for {KEY}")

    found = FakeService(broken).together()
    assert (found.ok, found.evidence) == (False, "16 of 16 requests at once failed: refused for ***")


def test_a_burst_is_of_one_token_each() -> None:
    service = FakeService(lambda _request: "")
    assert service.burst().ok and len({r["messages"][0]["content"] for r in service.asked}) == judge.BURST


def test_both_choices_are_the_known_answer() -> None:
    service = FakeService()
    assert service.n().ok and 0 < service.asked[0]["temperature"] < 0.1
    assert not FakeService(lambda _request: "It is Rome.").n().ok


def test_a_prompt_of_several_chunks_hides_a_word_from_models_that_find_one() -> None:
    def finds(request: dict[str, Any]) -> str:
        return next((w for w in judge.SECRETS if w in request["messages"][-1]["content"]), "none")

    small = {"args": {"max-num-batched-tokens": 512}}
    assert FakeService(finds, **small).chunked_prefill().ok
    assert not FakeService(lambda _request: "It is Paris.", **small).chunked_prefill().ok
    for cannot in ({"needle": 60}, {"unable": {"needle_50": "small"}}, {"context": 640}):
        service = FakeService(lambda _request: "Hm, well.", **small, **cannot)
        assert service.chunked_prefill().ok and service.asked[-1]["max_tokens"] == 16
        assert not FakeService(lambda _request: "!" * 16, **small, **cannot).chunked_prefill().ok


def test_what_came_from_the_cache_is_told_from_what_others_got_of_it() -> None:
    service = FakeService()
    assert service.shared_prefix().ok and len(service.asked) == 2 + 2, "two to count tokens"
    service = FakeService()
    service.caches, service.meanwhile = False, [{}] * 3 + [{"hits": 5000.0, "queries": 5000.0}] * 3
    assert not service.shared_prefix().ok, "others' cached tokens"
    service = FakeService()
    service.meanwhile = [{}] * 3 + [{"hits": 0.0, "queries": 5000.0}]
    assert service.shared_prefix().ok and len(service.asked) == 2 + 4, "others asked meanwhile, so it asked once more"
    service = FakeService()
    service.caches, service.cached_tokens = False, 1900
    assert service.shared_prefix().ok, "the engine tells of each request"


def test_a_stream_is_left_beside_others_that_stay() -> None:
    service = FakeService(timeout=0.3, context=8192)
    service.loads = [2]
    found = service.cancel()
    assert found.ok and "beside 2 requests of others" in found.evidence and len(service.asked) == 1


def test_a_stream_is_left_when_the_engine_has_nothing_else_to_do() -> None:
    service = FakeService()
    service.loads = [3, 1, 0, 0, 1, 1, 0]  # others; none; the stream, after a look that came too early; given up
    assert service.cancel().ok and len(service.asked) == 1 and service.loads == [0]


@pytest.mark.parametrize(
    ("loads", "streamed", "streams", "words"),
    [
        ([0, 1], 1.0, 2, "still working"),
        ([0], checks.LONG, 2, "was not given up"),
        ([None], 1.0, 0, "don't tell"),
    ],
)
def test_a_stream_that_is_not_given_up_is_told(
    loads: list[float | None], streamed: float, streams: int, words: str
) -> None:
    service = FakeService(timeout=0.3, context=8192)
    service.loads, service.streamed = loads, streamed
    found = service.cancel()
    assert not found.ok and words in found.evidence and len(service.asked) == streams, found


GIVEN_UP, STILL, BUSY = judge.Left(0.0, 0.0), judge.Left(0.0, 1.0), judge.Left(3.0, 4.0)


@pytest.mark.parametrize(
    ("turns", "ok", "words"),
    [
        ([GIVEN_UP], True, "given up"),
        ([STILL, GIVEN_UP], True, "given up"),
        ([BUSY, GIVEN_UP], True, "given up"),
        ([STILL, STILL], False, "still working"),
        ([BUSY, STILL], False, "still working"),
        ([BUSY, BUSY], False, "still working"),
        # What the engine works on the second time is the stream that it did not give up.
        ([STILL, BUSY], False, "still working"),
    ],
)
def test_a_stream_is_left_once_more_before_that_fails(turns: list[judge.Left], ok: bool, words: str) -> None:
    service, left = FakeService(), iter(turns)
    service.leave = lambda: next(left)  # type: ignore[method-assign]
    found = service.cancel()
    assert (found.ok, words in found.evidence, list(left)) == (ok, True, []), found


def test_what_a_killed_run_found_is_kept(
    service: Start, run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_service: Any) -> judge.Judgement:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks.Client, "wrong_key_refused", killed)
    file = tmp_path / "verdict.json"
    with pytest.raises(KeyboardInterrupt):
        run_module(llm_smoke, {**service(), "verdict_file": str(file)})
    kept = json.loads(file.read_text(encoding="utf-8"))["services"]["micro"]
    assert kept["ok"] is False and [c["id"] for c in kept["checks"]] == ["health", "models", "no_key_refused"]
