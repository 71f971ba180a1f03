"""What a smoke test asks of a service, and how the answers are judged. Pure: the requests are made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from ansible.module_utils.llm.engine import shorten

Judgement = tuple[bool, str]
"""Whether the answer is right, and the evidence; on a failure the evidence ends with what to do."""

CHECKS = ("health", "models", "no_key_refused", "wrong_key_refused", "answer", "streaming")


def health_url(base_url: str) -> str:
    """Return the engine's health address for an API address: same host and port, path /health."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, "/health", "", ""))


def no_answer(where: str, why: str) -> Judgement:
    """Judge a request that got no HTTP answer at all."""
    return False, f"No answer from {where}: {why}. Check that the container runs and that the address is right."


def judge_health(status: int, why: str, where: str) -> Judgement:
    """Judge the health endpoint: 200 and nothing else."""
    if status == 200:
        return True, f"200 from {where}"
    if status == 0:
        return no_answer(where, why)
    return False, f"{status} from {where} instead of 200. Read the engine's log: 503 means that its core has died."


def judge_models(served: Sequence[str], expected: str) -> Judgement:
    """Judge the list of models: the served name is in it."""
    names = ", ".join(served) or "none"
    if expected in served:
        return True, f"serves {names}"
    return False, (
        f"serves {names}, not {expected}. "
        "Set `served_model_name` of the service to the name that clients use, or point the address at its own engine."
    )


def judge_refusal(status: int, why: str, who: str) -> Judgement:
    """Judge a request that must be turned away: 401 is right; 200 means an open door."""
    if status == 401:
        return True, f"a request with {who} got 401"
    if status == 0:
        return False, f"a request with {who} got no answer ({why}), so nothing is shown. Check that the engine runs."
    if 200 <= status < 300:
        return False, f"a request with {who} was served ({status}). Check that the engine was started with its api-key."
    return False, f"a request with {who} got {status} ({why}) instead of 401. Look at what stands before the engine."


def judge_answer(text: str, expected: str, finish_reason: str | None, *, thinking: str = "") -> Judgement:
    """Judge an answer: the expected words are in it, upper and lower case alike."""
    said = shorten(" ".join(text.split()), 200)
    if expected.casefold() in text.casefold() and text.strip():
        return True, f"“{said}”"
    if not text.strip() and thinking and finish_reason == "length":
        return False, "The model was still thinking when its tokens ran out. Raise `max_tokens` of the smoke test."
    if not text.strip():
        return False, f"The answer is empty (finish reason {finish_reason}). Check chat template and reasoning parser."
    return False, (
        f"“{said}” does not hold “{expected}” (finish reason {finish_reason}). Either the expected answer is wrong for "
        "this model, or the engine computes nonsense: compare with other compilation settings and an empty cache."
    )


def judge_stream(
    pieces: Sequence[str],
    expected: str,
    *,
    finish_reason: str | None,
    completion_tokens: int | None,
    whole: str | None,
    first_seconds: float | None,
) -> Judgement:
    """Judge a streamed answer: same words, several pieces, a finish reason, and usage at the end.

    ``whole`` is the same question's answer without streaming; a difference is reported, but is no failure: an engine
    that batches does not promise the same tokens twice, at temperature 0 either.
    """
    text = "".join(pieces)
    ok, evidence = judge_answer(text, expected, finish_reason)
    if not ok and whole is not None and whole == text:
        return False, "the streamed answer is the same wrong one. See the check before."
    if not ok:
        return False, f"streamed: {evidence}"
    if len(pieces) < 2:
        return False, (
            f"the answer came in {len(pieces)} piece. Something between client and engine collects the stream: "
            "look for buffering in the proxy."
        )
    if finish_reason is None:
        return False, "the stream ended without a finish reason: it was cut off. Look at timeouts of the proxy."
    if not completion_tokens:
        return False, "the stream carried no usage at its end. Check the engine's version and `stream_options`."
    first = "" if first_seconds is None else f", first after {first_seconds * 1000:.0f} ms"
    same = "" if whole is None or whole == text else ", not word for word the answer without streaming"
    return True, f"{len(pieces)} pieces{first}, {completion_tokens} tokens, finish reason {finish_reason}{same}"


def summary(service: str, checks: Sequence[tuple[str, bool, str]]) -> str:
    """Return one message about (id, ok, evidence) checks: what failed and why."""
    failed = [f"{name}: {evidence}" for name, ok, evidence in checks if not ok]
    if not failed:
        return f"{service}: all {len(checks)} checks passed"
    return f"{service}: {len(failed)} of {len(checks)} checks failed. " + " | ".join(failed)
