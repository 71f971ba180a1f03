"""Boot phases, the engine's numbers, causes, metrics and verdicts, from recorded logs."""

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible.module_utils.llm.base.redact import redact
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import boot, log, verdict
from ansible.module_utils.llm.engine.metrics import metric_sum, parse_metrics

DATA = Path(__file__).parents[1] / "data" / "engine"


def recorded(name: str) -> Iterator[tuple[float, str]]:
    """Yield (seconds, line) of a recorded log, with Docker's time where it has one, else the engine's own."""
    clock = 0.0
    for raw in (DATA / name).read_text(encoding="utf-8").splitlines():
        stamp, _space, text = raw.partition(" ")
        at = docker_api.parse_time(stamp)
        own = re.search(r"\b11-23 (\d\d:\d\d:\d\d) ", raw)
        if at:
            clock, line = at / 1e9, text
        else:
            line = raw
            if own:
                moment = datetime.strptime(f"2026-11-23 {own[1]}", "%Y-%m-%d %H:%M:%S")
                clock = moment.replace(tzinfo=timezone.utc).timestamp()
        yield clock, line


def texts(name: str) -> list[str]:
    return [line for _at, line in recorded(name)]


def booted(name: str, before: float = 10.0) -> tuple[boot.BootProgress, float]:
    lines = [(at, line) for at, line in recorded(name)]
    first = next(at for at, _line in lines if at)
    state = boot.BootProgress(started=first - before)
    for at, line in lines:
        state = state.feed(at, line)
    return state, lines[-1][0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "(EngineCore pid=24) INFO 11-23 06:30:08 [core.py:402] init engine took 4 s",
            ("INFO", "init engine took 4 s"),
        ),
        ("(Worker_TP0_EP0 pid=7) ERROR 11-23 06:30:08 [a.py:1] Traceback", ("ERROR", "Traceback")),
        ("INFO:     Application startup complete.", ("INFO", "Application startup complete.")),
        (
            "INFO 02-18 04:51:36 [loader.py:1] Loading weights took 1.4 seconds",
            ("INFO", "Loading weights took 1.4 seconds"),
        ),
        ("RuntimeError: no", ("", "RuntimeError: no")),
        ("", ("", "")),
    ],
)
def test_strip_prefix(line: str, expected: tuple[str, str]) -> None:
    assert log.strip_prefix(line) == expected


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("boot-cpu-eager.log", ["config", "init", "weights", "kv_cache", "server", "ready"]),
        ("boot-cpu-compiled.log", ["config", "init", "weights", "compile", "kv_cache", "server", "ready"]),
        ("boot-gpu-format.log", ["config", "init", "weights", "compile", "kv_cache", "graphs", "server", "ready"]),
    ],
)
def test_phases_in_order(name: str, phases: list[str]) -> None:
    progress, end = booted(name)
    assert [phase for phase, _at in progress.marks] == phases
    assert progress.phase == "ready"
    rows = progress.phases(end)
    assert [row["phase"] for row in rows] == ["import", *phases[:-1]]
    assert all(row["seconds"] >= 0 for row in rows)
    ready = progress.ready_at()
    assert ready is not None
    assert sum(row["seconds"] for row in rows) == pytest.approx(progress.elapsed(ready), abs=0.5)


def test_phase_seconds_of_a_compiled_boot() -> None:
    progress, end = booted("boot-cpu-compiled.log", before=0)
    seconds = {row["phase"]: row["seconds"] for row in progress.phases(end)}
    assert seconds["compile"] == pytest.approx(64.3, abs=0.1)
    assert seconds["weights"] == pytest.approx(2.3, abs=0.1)


def test_phases_never_go_back() -> None:
    progress = boot.BootProgress(started=0.0)
    progress = progress.feed(1, "Model loading took 8.75 GiB memory and 20.1 seconds")
    progress = progress.feed(2, "Loading safetensors checkpoint shards:  44% Completed | 4/9 [00:08<00:10,  2.02s/it]")
    assert progress.phase == "compile"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "Loading safetensors checkpoint shards:  44% Completed | 4/9 [00:08<00:10,  2.02s/it]",
            "loading weights (shard 4 of 9)",
        ),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  61%|██████    | 31/51 [00:06<00:04,  5.02it/s]",
            "capturing CUDA graphs (graph 31 of 51)",
        ),
        (
            "(W pid=1) INFO 11-23 07:01:40 [b.py:1] Compiling a graph for compile range (1, 8192) takes 24.05 s",
            "range (1, 8192)",
        ),
    ],
)
def test_describe(line: str, said: str) -> None:
    assert said in boot.BootProgress(started=0.0).feed(1, line).describe()


def test_progress_keeps_no_secret() -> None:
    progress = boot.BootProgress(started=0.0).feed(1, "non-default args: {'api_key': ['k-verysecret'], 'model': 'x'}")
    assert "verysecret" not in progress.last_line
    assert "model" in progress.last_line


def test_nothing_said_yet() -> None:
    progress = boot.BootProgress(started=100.0)
    assert progress.phase == "import"
    assert progress.phases(103.0) == [{"phase": "import", "seconds": 3.0}]
    assert progress.ready_at() is None
    assert progress.feed(101.0, "   ") is progress


def test_harvest_cpu() -> None:
    assert boot.harvest(texts("boot-cpu-eager.log")) == {
        "architecture": "LlamaForCausalLM",
        "max_model_len": 2048,
        "version": "0.32.0",
        "checkpoint_gib": 0.25,
        "weights_seconds": 1.49,
        "kv_cache_gib": 1.0,
        "kv_cache_tokens": 46592,
        "kv_concurrency": 22.75,
        "init_seconds": 4.49,
    }


def test_harvest_gpu_takes_the_worst_worker() -> None:
    found = boot.harvest(texts("boot-gpu-format.log"))
    assert found["weights_gib"] == 8.93
    assert found["load_seconds"] == 21.654321
    assert found["kv_cache_gib"] == 11.3
    assert found["kv_cache_tokens"] == 222032
    assert found["compile_seconds"] == 37.85
    assert (found["graph_gib"], found["graph_seconds"]) == (0.36, 12)
    assert found["attention_backend"] == "TRITON_MLA"


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("flag", "unknown_flag", "--swap-space"),
        ("kvlen", "context_too_long", "200000 is more than the model declares (8192 tokens)"),
        ("kvsmall", "config", "invalid literal for int() with base 10: '0.01'"),
        ("perm", "permission", "/run/secrets/engine.yml"),
        ("trunc", "broken_weights", "file not fully covered"),
        ("arch", "architecture", "NoSuchForCausalLM"),
        ("parser", "unknown_parser", "no tool call parser named nosuch"),
        ("nomodel", "no_model", "/model"),
        ("killed", "killed", "SIGKILL"),
        ("cache-truncated", "damaged_cache", "vllm/compilation/backends"),
        ("cache-altered", "damaged_cache", "vllm/compilation/backends"),
        ("cache-triton", "damaged_cache", "triton/runtime/cache"),
    ],
)
def test_cause_of_recorded_failures(name: str, cause: str, words: str) -> None:
    found = boot.likely_cause(texts(f"fail-{name}.log"), exit_code=1)
    assert found is not None
    assert found.id == cause
    assert words in found.cause
    assert found.remedy
    assert found.line


@pytest.mark.parametrize(
    ("line", "cause", "words"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (6.61 GiB KV cache is needed, which "
            "is larger than the available KV cache memory (4.20 GiB). Based on the available memory, the estimated maximum "
            "model length is 83200. Try increasing `gpu_memory_utilization`",
            "kv_cache_too_small",
            "enough for 83200 tokens",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing",
            "no_kv_cache",
            "no memory for the KV cache",
        ),
        (
            "ValueError: Free memory on device cuda:0 (22.26/23.99 GiB) on startup is less than desired GPU memory utilization "
            "(0.95, 22.79 GiB). Decrease GPU memory utilization",
            "gpu_memory_taken",
            "cuda:0 has 22.26 of 23.99 GiB free, and the engine wants 22.79 GiB (utilization 0.95)",
        ),
        (
            "ValueError: Available memory on node 0 (3.1/15.5 GiB) on startup is less than desired CPU memory utilization "
            "(0.92, 14.26 GiB). On the CPU backend",
            "memory_taken",
            "wants 14.26 GiB",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.85 GiB.", "gpu_out_of_memory", "GPU ran out"),
        ("OSError: [Errno 98] Address already in use", "port_in_use", "in use"),
        ("RuntimeError: No CUDA GPUs are available", "no_gpu", "sees no GPU"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "shared_memory", "/dev/shm"),
        ("OSError: [Errno 28] No space left on device: '/cache/x'", "disk_full", "full"),
        ("RuntimeError: expected scalar type BFloat16 but found Half", "dtype", "got Half where it takes BFloat16"),
        ("vllm: error: argument --dtype: invalid choice: 'float12'", "bad_flag_value", "--dtype"),
        ("ModuleNotFoundError: No module named 'my_parser'", "missing_module", "my_parser"),
        ("RuntimeError: Failed core proc(s): {'EngineCore': -4}", "crashed", "signal 4"),
        ("SomethingError: never seen before", "exception", "never seen before"),
    ],
)
def test_cause_of_single_lines(line: str, cause: str, words: str) -> None:
    found = boot.likely_cause(
        ["INFO 11-23 06:00:00 [a.py:1] fine", f"(EngineCore pid=9) ERROR 11-23 06:00:01 [a.py:2] {line}"]
    )
    assert found is not None
    assert (found.id, words in found.cause) == (cause, True), found


def test_consequences_are_no_causes() -> None:
    lines = ["ValueError: the real reason", "RuntimeError: Engine core initialization failed. See root cause above."]
    found = boot.likely_cause(lines)
    assert found is not None
    assert "the real reason" in found.cause


def test_a_warning_is_no_cause() -> None:
    assert boot.likely_cause(texts("boot-cpu-eager.log")) is None
    line = "WARNING 11-23 06:29:31 [s.py:1] can cause errors like `OSError: [Errno 28] No space left on device`"
    assert boot.likely_cause([line]) is None


@pytest.mark.parametrize(
    ("exit_code", "oom", "cause"),
    [(137, True, "out_of_memory"), (137, False, "killed"), (139, False, "crashed")],
)
def test_cause_from_the_exit(exit_code: int, oom: bool, cause: str) -> None:
    found = boot.likely_cause(texts("fail-oom.log"), exit_code=exit_code, oom_killed=oom)
    assert found is not None
    assert found.id == cause


def test_cause_hides_secrets() -> None:
    found = boot.likely_cause(["ValueError: bad token hf_abcdefghijklmnop in --api-key k-secret99"])
    assert found is not None
    assert "abcdefgh" not in found.cause + found.line
    assert "k-secret99" not in found.cause + found.line


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcd1234efgh",
        "{'api_key': 'abcd1234efgh'}",
        "api-key: [abcd1234efgh, b]",
        "api_keys=abcd1234efgh",
        "vllm serve --api-key abcd1234efgh",
        "token sk-abcd1234efgh",
        "my own abcd1234efgh here",
    ],
)
def test_redact(text: str) -> None:
    assert "abcd1234" not in redact(text, ["abcd1234efgh"] if "own" in text else [])


def test_redact_leaves_words_alone() -> None:
    text = "max_tokens=5, prompt_tokens: 7, api_key=None"
    assert redact(text, ["a", ""]) == text


def test_tail_drops_noise() -> None:
    lines = texts("fail-flag.log") + [
        "",
        "Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.48s/it]",
    ]
    kept = log.tail(lines, 3)
    assert kept[-1].endswith("error: unrecognized arguments: --swap-space")
    assert len(kept) == 3
    assert not any("[--" in line for line in kept)
    assert log.tail(["x" * 500])[0] == "x" * 399 + "…"


def test_metrics_recorded() -> None:
    samples = parse_metrics((DATA / "metrics.txt").read_text(encoding="utf-8"))
    assert metric_sum(samples, "vllm:num_requests_running", model_name="smol") == 0.0
    assert metric_sum(samples, "vllm:request_success_total", finished_reason="stop") == 2.0
    assert (metric_sum(samples, "vllm:iteration_tokens_total_count") or 0) > 0
    assert metric_sum(samples, "no_such_metric") is None


def test_metrics_format() -> None:
    text = '# HELP a b\na 1\nb{x="p\\"q\\n,{}",y="2"} +Inf 1712\nc NaN\nbroken{ 1\nd one\n'
    samples = {sample.name: sample for sample in parse_metrics(text)}
    assert samples["a"].value == 1
    assert samples["b"].labels == {"x": 'p"q\n,{}', "y": "2"}
    assert samples["b"].value == float("inf")
    assert samples["c"].value != samples["c"].value
    assert set(samples) == {"a", "b", "c"}


def check(ok: bool) -> verdict.CheckResult:
    return verdict.CheckResult(id="health", ok=ok, seconds=0.1, evidence="e", remedy="")


@pytest.mark.parametrize(("checks", "ok"), [([True], True), ([True, False], False), ([], False)])
def test_service_verdict(checks: list[bool], ok: bool) -> None:
    assert verdict.service_verdict([check(item) for item in checks])["ok"] is ok


def test_verdict_needs_every_service() -> None:
    good, bad = verdict.service_verdict([check(True)]), verdict.service_verdict([check(False)])
    assert verdict.verdict({"b": good, "a": good}) == {"ok": True, "services": {"a": good, "b": good}}
    assert verdict.verdict({"b": good, "a": bad})["ok"] is False
    assert verdict.verdict({})["ok"] is False


@pytest.mark.parametrize("held", [None, [], {"services": 3}, {"services": {"old": {"ok": "yes"}, "odd": 1}}, "text"])
def test_merge_verdict_drops_what_is_none(held: object) -> None:
    good = verdict.service_verdict([check(True)])
    assert verdict.merge_verdict(held, "new", good) == {"ok": True, "services": {"new": good}}


def test_merge_verdict_keeps_others() -> None:
    good, bad = verdict.service_verdict([check(True)]), verdict.service_verdict([check(False)])
    merged = verdict.merge_verdict(verdict.verdict({"a": bad, "b": bad}), "a", good)
    assert merged == {"ok": False, "services": {"a": good, "b": bad}}
