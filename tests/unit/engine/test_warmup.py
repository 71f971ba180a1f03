"""Prompt sizes, calibration, and the module's table from a stub engine that counts two tokens a word."""

import json
import random
from collections.abc import Callable
from typing import Any

import llm_warmup
import pytest
from ansible.module_utils.llm.engine import warmup
from ansible.module_utils.llm.engine.metrics import Sample, parse_metrics

Start = Callable[..., dict[str, Any]]
Run = Callable[..., dict[str, Any]]


def test_calibration() -> None:
    fitted = warmup.calibrate([(100, 230), (1, 32)])
    assert fitted == warmup.Calibration(per_word=2.0, overhead=30.0)
    assert fitted.words_for(230) == 100
    assert fitted.words_for(231) == 100
    assert fitted.words_for(5) == 1


@pytest.mark.parametrize("probes", [[(1, 30), (100, 30)], [(1, 30), (1, 31)], [(1, 90), (100, 30)]])
def test_calibration_refuses_nonsense(probes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="usage numbers are wrong"):
        warmup.calibrate(probes)


@pytest.mark.parametrize("per_word", [1.0, 1.37, 3.2])
@pytest.mark.parametrize("context", [256, 2048, 131072])
def test_no_prompt_exceeds_the_context(per_word: float, context: int) -> None:
    fitted = warmup.Calibration(per_word, overhead=30)
    sizes = warmup.plan([50, context // 2, context - 1, context], context, answer_tokens=4)
    for size in sizes:
        assert not size.skip
        sent = fitted.overhead + fitted.per_word * fitted.words_for(size.target)
        assert sent + 4 <= context
        assert sent <= size.declared


@pytest.mark.parametrize(
    ("size", "context", "skip"),
    [(2049, 2048, "longer than the context"), (0, 2048, "at least one token"), (5, 8, "no room")],
)
def test_skipped_with_a_reason(size: int, context: int, skip: str) -> None:
    assert skip in warmup.plan([size], context, 4)[0].skip


def test_order_and_repeats_are_kept() -> None:
    assert [size.declared for size in warmup.plan([50, 30, 30, 50], 2048, 4)] == [50, 30, 30, 50]


def test_prompts_differ_and_can_be_repeated() -> None:
    first, second = random.Random(7), random.Random(7)
    once = warmup.prompt(50, first)
    assert once == warmup.prompt(50, second)
    assert once != warmup.prompt(50, first)
    assert len(once.split()) == 50
    assert len(set(warmup.WORDS)) > 100


def test_table(stub_engine: Start, run_module: Run, stub_prompts: list[int]) -> None:
    result = run_module(llm_warmup, stub_engine(prompt_tokens=[50, 200, 300, 5000]))
    assert result["changed"] is False
    assert result["context"] == 300
    assert result["calibration"] == {"per_word": 2.0, "overhead": 20.0}
    rows = result["sizes"]
    assert [(row["prompt_tokens"], row["status"]) for row in rows] == [
        (50, "ok"),
        (200, "ok"),
        (300, "ok"),
        (5000, "skipped"),
    ]
    assert [row["sent_tokens"] for row in rows[:3]] == [[50, 50], [200, 200], [288, 288]]
    assert all(row["first_ms"] > 0 and row["second_ms"] > 0 for row in rows[:3])
    assert "longer than the context of 300 tokens" in rows[3]["reason"]
    assert stub_prompts == [22, 94, 50, 50, 200, 200, 288, 288]


def test_a_failed_size_does_not_stop_the_others(stub_engine: Start, run_module: Run) -> None:
    # The stub refuses what is longer than 300 tokens; the declared context is a lie.
    result = run_module(llm_warmup, {**stub_engine(prompt_tokens=[600, 60]), "context": 1000})
    assert result["failed"] is True
    assert [row["status"] for row in result["sizes"]] == ["failed", "ok"]
    assert "maximum context length" in result["sizes"][0]["reason"]
    assert "maximum context length" in result["msg"]


def test_check_mode_sends_no_prompt(stub_engine: Start, run_module: Run, stub_prompts: list[int]) -> None:
    result = run_module(llm_warmup, stub_engine(prompt_tokens=[50, 5000]), check_mode=True)
    assert [row["status"] for row in result["sizes"]] == ["planned", "skipped"]
    assert stub_prompts == []


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["other_model"], "serves other, not stub"),
        (["no_context"], "Set `context`"),
        (["odd_usage"], "usage numbers are wrong"),
        (["broken"], "500"),
        (["no_usage"], "without usage"),
    ],
)
def test_errors(stub_engine: Start, run_module: Run, faults: list[str], words: str) -> None:
    result = run_module(llm_warmup, stub_engine(*faults, prompt_tokens=[50]))
    assert result["failed"] is True
    assert words in result["msg"]
    assert "k-right-key" not in json.dumps(result["msg"])


def test_all_sizes_skipped(stub_engine: Start, run_module: Run, stub_prompts: list[int]) -> None:
    result = run_module(llm_warmup, stub_engine(prompt_tokens=[5000]))
    assert "failed" not in result
    assert stub_prompts == []


def test_time_limit(stub_engine: Start, run_module: Run) -> None:
    result = run_module(llm_warmup, stub_engine("drip", prompt_tokens=[50], timeout=2))
    assert "no complete answer within 2 s" in result["msg"]


def test_wrong_key(stub_engine: Start, run_module: Run) -> None:
    result = run_module(llm_warmup, {**stub_engine(prompt_tokens=[50]), "api_key": "k-wrong-wrong"})
    assert "not one of the service's keys" in result["msg"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "http://127.0.0.1:9/v1"}, "Check that the container runs and that `base_url` is right"),
        ({"base_url": "http://no-such-host.invalid/v1"}, "Check that the container runs and that `base_url` is right"),
        ({"base_url": "{}/v2"}, "404: "),
        ({"base_url": "https:{}/v1"}, "Check the scheme of `base_url`: engines speak http"),
        ({"api_key": None, "api_key_file": "/nosuch/key"}, "api_key_file /nosuch/key: No such file"),
        ({"api_key": None}, "one of the following is required: api_key, api_key_file"),
    ],
)
def test_what_cannot_be_warmed_is_told_at_once(
    stub_engine: Start, run_module: Run, stub_prompts: list[int], changes: dict[str, str | None], words: str
) -> None:
    given = stub_engine()
    plain = given["base_url"].removesuffix("/v1")
    for name, value in changes.items():
        # "https:{}": the address without its scheme
        given[name] = value and value.replace("https:{}", "https:" + plain.removeprefix("http:")).replace("{}", plain)
    result = run_module(llm_warmup, {name: value for name, value in given.items() if value})
    assert result["failed"] and words in result["msg"], result["msg"]
    assert stub_prompts == []


def test_a_certificate_that_nobody_vouches_for_is_told(
    stub_engine: Start, run_module: Run, tls: Callable[[], str]
) -> None:
    result = run_module(llm_warmup, {**stub_engine(), "base_url": tls()})
    assert result["failed"] and "CERTIFICATE_VERIFY_FAILED" in result["msg"] and "SSL_CERT_FILE" in result["msg"]


def test_an_engine_that_answers_no_more_is_left_and_what_it_did_is_kept(
    stub_engine: Start, run_module: Run, stub_prompts: list[int]
) -> None:
    # The stub answers prompts of up to 100 tokens, and then not in time.
    asked = {"prompt_tokens": [50, 150, 200, 250], "concurrency": [2], "shared_prefix": 60, "timeout": 2}
    result = run_module(llm_warmup, stub_engine("tires", **asked))
    assert [row["status"] for row in result["sizes"]] == ["ok", "failed", "failed", "failed"]
    assert result["sizes"][0]["second_ms"] > 0
    assert all("no complete answer within 2 s" in row["reason"] for row in result["sizes"][1:3])
    later = [result["sizes"][3], *result["concurrency"], *result["prefix"]]
    assert all(row["reason"].startswith("not sent: 2 requests in a row") for row in later)
    assert len(stub_prompts) == 2 + 2 + 2, "what could only have waited was sent"


def test_more_than_sizes(stub_engine: Start, run_module: Run, stub_prompts: list[int]) -> None:
    asked = {"prompt_tokens": [50], "concurrency": [1, 3], "shared_prefix": 200}
    result = run_module(llm_warmup, stub_engine(**asked))
    assert [(row["concurrency"], row["status"]) for row in result["concurrency"]] == [(1, "ok"), (3, "ok")]
    (prefix,) = result["prefix"]
    assert (prefix["prompt_tokens"], prefix["status"]) == (200, "ok")
    assert len(stub_prompts) == 2 + 2 + 2 * (1 + 3) + 2
    assert "3 at once" in result["msg"] and "the same beginning" in result["msg"]


def test_without_sizes_they_reach_from_fifty_tokens_to_the_context(stub_engine: Start, run_module: Run) -> None:
    result = run_module(llm_warmup, stub_engine())
    assert [row["prompt_tokens"] for row in result["sizes"]] == [50, 200, 300]
    assert warmup.ladder(131072) == [50, 200, 800, 3200, 12800, 51200, 131072]


def metrics(counts: dict[str, int]) -> list[Sample]:
    lines = [f'{warmup.HISTOGRAM}{{engine="0",le="{edge}"}} {count}' for edge, count in counts.items()]
    return parse_metrics("\n".join(lines))


def test_an_engine_is_warm_when_it_has_computed_all_sizes_twice() -> None:
    found = metrics({"20.0": 5, "50.0": 7, "100.0": 7, "200.0": 8, "500.0": 10, "+Inf": 12})
    assert warmup.warm(found, [50, 300]) and warmup.warm(found, [9000])
    assert not warmup.warm(found, [50, 60]) and not warmup.warm(found, [150])
    assert not warmup.warm([], [50]) and not warmup.warm(found, [])


def test_a_warm_engine_is_sent_nothing(
    stub_engine: Start, run_module: Run, stub_prompts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_warmup.Sender, "is_warm", lambda _self, _sizes: True)
    result = run_module(llm_warmup, stub_engine(prompt_tokens=[50], concurrency=[2]))
    assert (result["warm"], stub_prompts) == (True, []) and "50 tokens: warm" in result["msg"]
    again = run_module(llm_warmup, {**stub_engine(prompt_tokens=[50]), "again": True})
    assert again["warm"] is False and again["sizes"][0]["status"] == "ok"


def test_pictures_of_noise_differ() -> None:
    rng = random.Random(3)
    first, second = warmup.picture(rng), warmup.picture(rng)
    assert first != second and len(first) < 50_000
