"""What a smoke test asks of a service, and how the answers are judged. Pure: the requests are made in checks.py."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from ansible.module_utils.llm.base.redact import shorten
from ansible.module_utils.llm.declare.checks import CHECKS, Asked
from ansible.module_utils.llm.engine import numbers


class Judgement(NamedTuple):
    """Whether the answer is right, what came back, and what to do when it is not.

    A remedy of a right one is a warning: this passes, and somebody should look at it all the same.
    """

    ok: bool
    evidence: str
    remedy: str = ""


# A grammar makes any engine say this, so that it stops at its last word whatever the model knows.
STOP_TEXT, STOP_WORD = "one two three", "three"
TOGETHER = 16
BURST = 64
NEARLY_GREEDY = (
    0.05  # several choices of one request have to be sampled; this low, what is 1.5 nats behind is never taken
)
REPEATED = 8  # times a character, and nothing else: no answer
# Any grammar-bound engine can say this, whatever its model knows: most characters are several tokens, or parts of them.
UNICODE = "Zürich, naïve, 東京, 🚀🏽, ∑"
TOOL_CITY, TOOL_OTHER_CITY = "Paris", "Rome"
TOOL_QUESTION = f"What is the weather in {TOOL_CITY}?"
TOOL_PARALLEL_QUESTION = f"What is the weather in {TOOL_CITY}, and what is the weather in {TOOL_OTHER_CITY}?"
TOOL_RESULT, TOOL_ANSWER = "sunny, 21 C", "sunny"


def _tool(name: str, description: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOL = _tool("get_weather", "Get the weather of a city", {"city": {"type": "string"}})
BARE_TOOL = _tool("get_time", "Get the current time", {})
BARE_QUESTION = "What time is it now? Use the tool."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "capital": {"type": "boolean"},
        "rivers": {
            "type": "array",
            "items": {"type": "string", "enum": ["Seine", "Tiber"]},
            "minItems": 1,
            "maxItems": 1,
        },
    },
    "required": ["city", "capital", "rivers"],
    "additionalProperties": False,
}
SCHEMA_QUESTION = "Describe Paris as JSON with the keys city, capital (true or false) and rivers (a list)."
# Requests that are wrong in one thing each, put into a right one; text stands for the whole body.
BAD_REQUESTS: Mapping[str, Mapping[str, Any] | str] = {
    "an unknown model": {"model": "no-such-model"},
    "messages that are text": {"messages": "x"},
    "a negative max_tokens": {"max_tokens": -1},
    "a body that is no JSON": "{",
}
THINKING_MARKS = ("<think>", "</think>")
# The order of a message without tools in Anthropic's protocol; blocks repeat.
ANTHROPIC_EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)
# What the engine reads at once when its flags don't say: vLLM 0.32 has 2048 on small devices and 8192 on large ones.
CHUNK = 8192
NEEDLE_QUESTION = "What is the secret word?"
_FILLER = (
    "The ferry was late again.",
    "Two cranes stood by the river.",
    "Every lamp in the street was lit.",
    "My neighbour keeps bees.",
    "The bakery opens at six.",
    "A grey cat slept on the roof.",
    "They painted the fence on Sunday.",
    "The meeting moved to room nine.",
    "Snow fell on the hills.",
    "Nobody had wound the clock.",
    "She planted beans behind the shed.",
    "The report has four tables.",
)
# None with a letter doubled: the small GLM of the tests finds "apple" every time, and spells it "appppple".
SECRETS = ("lantern", "guitar", "falcon", "tiger", "castle", "planet", "window", "silver", "rocket", "garden")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "green": (20, 160, 40),
    "blue": (20, 40, 220),
    "yellow": (245, 220, 20),
}
VISION_QUESTION = (
    "This picture has a left half and a right half, each in one colour. Which colour is the left one, and which the right one? "
    "Answer with two words, the left one first."
)
LOG = "Read the engine's log (`docker logs`)."
VERSION = "Check the engine's version, and what stands between it and the client."


def features(args: Mapping[str, Any], *, vision: bool = False) -> set[str]:
    """What a service lets its clients ask for, by its flags and its model: tools, reasoning, vision, caching."""
    found = set()
    if args.get("enable-auto-tool-choice") and args.get("tool-call-parser"):
        found.add("tools")
    if args.get("reasoning-parser"):
        found.add("reasoning")
    images = args.get("limit-mm-per-prompt")
    if (
        vision
        and not args.get("language-model-only")
        and not (isinstance(images, Mapping) and images.get("image") == 0)
    ):
        found.add("vision")
    if args.get("enable-prefix-caching", True):
        found.add("caching")
    return found


def applying(
    args: Mapping[str, Any], depth: str, *, vision: bool = False, room: int = 0, needle: int = 0, history: bool = False
) -> tuple[Asked, ...]:
    """Checks that apply, in order: one for which service, model or caller lack the means is absent.

    room: the engine's context in tokens, 0 when unknown. needle: tokens within which the model finds a word again, 0 for none.
    history: whether there is a record of earlier speeds to compare with and to write to.
    """
    have = {"", *features(args, vision=vision)}
    have |= {"needle"} if needle else set()
    have |= {"history"} if history else set()
    have |= {"chunks"} if room > chunk(args) * 1.2 else set()
    return tuple(a for a in CHECKS if a.needs in have and (depth == "full" or a.depth == "gate"))


def known(
    model: Mapping[str, Any], service: Mapping[str, Any], args: Mapping[str, Any], *, context: int, vision: bool
) -> dict[str, Any]:
    """Options of module llm_smoke that describe a service: what its model declares, with the service's own values over it.

    model, service: their `smoke`. context: tokens that the model declares, 0 when it does not. vision: whether it sees; its
    service's flags may rule images out.
    """
    asked = args.get("max-model-len")
    room = asked if isinstance(asked, int) and asked > 0 else context
    found = {**model, **service}
    if "question" in service and "margin" not in service:
        found.pop("margin", None)  # it is another question's
    needle = found.get("needle", context)
    sees = "vision" in features(args, vision=vision)
    return {**found, "vision": sees, "context": room, "needle": min(needle, room) if room else needle}


def finds(needle: int, unable: Mapping[str, Any], tokens: int) -> bool:
    """Whether a model is known to find a word in the middle of a prompt of so many tokens; needle, unable: of its `smoke`."""
    return needle >= tokens and "needle_50" not in unable


def chunk(args: Mapping[str, Any]) -> int:
    """Tokens of a prompt that the engine reads at once."""
    value = args.get("max-num-batched-tokens")
    return value if isinstance(value, int) else CHUNK


def health_url(base_url: str) -> str:
    """Return the engine's health address for an API address: same host and port, path /health."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, "/health", "", ""))


def haystack(words: int, share: float, secret: str, rng: random.Random) -> str:
    """A text of about so many words, with a secret word at that share of it and a question for the word at the end."""
    sentences: list[str] = []
    while words > 0:
        sentences.append(rng.choice(_FILLER))
        words -= len(sentences[-1].split())
    sentences.insert(round(len(sentences) * share), f"The secret word is {secret}.")
    return " ".join([*sentences, NEEDLE_QUESTION])


def picture(left: str, right: str, side: int = 64) -> bytes:
    """A PNG of two halves in these COLOURS."""
    return png((bytes(COLOURS[left]) * (side // 2) + bytes(COLOURS[right]) * (side // 2)) * side, side)


def png(pixels: bytes, side: int) -> bytes:
    """A square PNG of such a side; pixels: red, green and blue of each, row by row."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[start : start + 3 * side] for start in range(0, 3 * side * side, 3 * side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows, 9)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---------------------------------------------------------------------------------------------------------------------
# Judging.


def _said(text: str) -> str:
    return f"“{shorten(' '.join(text.split()), 200)}”"


def no_answer(where: str, why: str) -> Judgement:
    """Judge a request that got no HTTP answer at all."""
    return Judgement(
        False, f"no answer from {where}: {why}", "Check that the container runs and that the address is right."
    )


def not_asked(why: str) -> Judgement:
    """Judge a check that was not made, since it could only have waited."""
    return Judgement(False, f"not asked: {why}", "See the checks before.")


def judge_health(status: int, why: str, where: str) -> Judgement:
    """Judge the health endpoint: 200 and nothing else."""
    if status == 200:
        return Judgement(True, f"200 from {where}")
    if status == 0:
        return no_answer(where, why)
    return Judgement(
        False, f"{status} from {where} instead of 200", "Read the engine's log: 503 means that its core has died."
    )


def judge_models(served: Sequence[str], expected: str) -> Judgement:
    """Judge the list of models: the served name is in it."""
    names = ", ".join(served) or "none"
    if expected in served:
        return Judgement(True, f"serves {names}")
    return Judgement(
        False,
        f"serves {names}, not {expected}",
        "Set `served_model_name` of the service to the name that clients use, or point the address at its own engine.",
    )


def judge_refusal(status: int, why: str, who: str) -> Judgement:
    """Judge a request that must be turned away: 401 is right; 200 means that the API is open to everybody."""
    if status == 401:
        return Judgement(True, f"a request with {who} got 401")
    if status == 0:
        return Judgement(
            False, f"a request with {who} got no answer ({why}), so nothing is shown", "Check that the engine runs."
        )
    if 200 <= status < 300:
        return Judgement(
            False, f"a request with {who} was served ({status})", "Check that the engine was started with its api-key."
        )
    return Judgement(
        False, f"a request with {who} got {status} ({why}) instead of 401", "Look at what stands before the engine."
    )


def judge_answer(text: str, expected: str, finish_reason: str | None, *, thinking: str = "") -> Judgement:
    """Judge an answer: the expected words are in it, upper and lower case alike; "" for any answer that says something."""
    if any(mark in text for mark in THINKING_MARKS):
        return Judgement(
            False,
            f"{_said(text)} holds the model's thoughts",
            "Set `reasoning-parser` in `args` of the service, or correct it.",
        )
    if expected.casefold() in text.casefold() and text.strip():
        return Judgement(True, _said(text))
    if not text.strip() and thinking and finish_reason == "length":
        return Judgement(
            False, "the model was still thinking when its tokens ran out", "Raise `max_tokens` of the smoke test."
        )
    if not text.strip():
        return Judgement(
            False, f"the answer is empty (finish reason {finish_reason})", "Check chat template and reasoning parser."
        )
    return Judgement(
        False,
        f"{_said(text)} does not hold “{expected}” (finish reason {finish_reason})",
        "Either the expected answer is wrong for this model, or the engine computes nonsense: check weights and chat template.",
    )


def computing(accelerator: str) -> str:
    """What to try when an engine computes nonsense, on such a host ("" when it is not known)."""
    tries = {
        "cpu": "Try `dtype: float32`, then `enforce-eager` the other way round, and name the processor (verdict.json) in a report.",
        "nvidia": "Try an empty cache, `enforce-eager: true`, on several GPUs `disable-custom-all-reduce: true`, and the weights "
        "anew (playbooks/verify_models.yml -e llm_verify=deep).",
    }
    return f"Check weights and chat template. {tries.get(accelerator, '')}".strip()


def judge_known(found: Judgement, margin: float | None, *, measured: bool) -> Judgement:
    """Add to a right answer how sure the engine was of it; margin: see numbers.margin. measured: it gave log-probabilities."""
    if not measured:
        return found._replace(evidence=f"{found.evidence}, by its text alone: the engine gives no log-probabilities")
    if margin is None:
        return found._replace(evidence=f"{found.evidence}, margin not known")
    said = f"{found.evidence}, margin {margin:.2f}"
    if margin >= numbers.LEAST_MARGIN:
        return found._replace(evidence=said)
    return Judgement(True, f"{said}: nearly a tie, which another processor or batch may decide otherwise", WEAK)


def judge_near_tie(wrong: Judgement, fork: numbers.Fork, text: str) -> Judgement:
    """Judge a wrong answer that the other token of a near tie makes right: the engine is well, and the question is weak."""
    return Judgement(
        True, f"{wrong.evidence}; but {fork} is a near tie, and with the other token it says {_said(text)}", WEAK
    )


def judge_nonsense(wrong: Judgement, steps: Sequence[numbers.Step], tried: int, accelerator: str) -> Judgement:
    """Judge a wrong answer of which the engine was sure, or that no other token of its near ties makes right."""
    first = steps[: numbers.SURE]
    if not first:
        return wrong
    mean = sum(s.logprob for s in first) / len(first)
    leads = [s.lead for s in first if math.isfinite(s.lead)]
    least = f", the least lead {min(leads):.2f}" if leads else ""
    ties = f"no other token of {tried} near ties leads there" if tried else "there is no near tie"
    return Judgement(
        False,
        f"{wrong.evidence}; {ties} (mean log-probability {mean:.2f}{least}): the expected answer is nowhere near",
        f"The engine computes nonsense, or the expected answer is wrong for this model. {computing(accelerator)}",
    )


def judge_repetition(text: str, finish_reason: str | None) -> Judgement:
    """Judge whether what was said to the known question goes round in circles: it has no end, and most of it was said before."""
    share = numbers.repeated(text)
    said = f"{share:.0%} of its 4-grams occurred before, finish reason {finish_reason}"
    if finish_reason != "length" or share < numbers.REPEATED_SHARE:
        return Judgement(True, said)
    return Judgement(
        False,
        f"{_said(text)} goes round in circles: {said}",
        "Check the chat template and the end-of-turn tokens (generation_config.json); if the model is so by nature, declare "
        "`unable: {repetition: ...}` in its `smoke`.",
    )


def judge_fixed_text(now: numbers.Reading | None, before: numbers.Reading | None, accelerator: str) -> Judgement:
    """Judge the log-probabilities of numbers.TEXT by those that this or the last release of the model gave."""
    if now is None:
        return Judgement(True, "the engine gives no log-probabilities of a prompt, so nothing is compared")
    if not all(map(math.isfinite, now.logprobs)):
        return Judgement(False, "log-probabilities of a fixed text are no numbers", computing(accelerator))
    said = f"mean log-probability of {len(now.logprobs)} tokens {now.mean:.3f}"
    found = numbers.change(now, before)
    if found is None or before is None:
        return Judgement(True, f"{said}; nothing to compare it with")
    most = numbers.limit(now, before)
    said += f", release {before.release} gave {before.mean:.3f}; {found.distance:.3f} apart a token, up to {most:.3f} is rounding"
    if found.likelier < -numbers.WORSE:
        return Judgement(
            False,
            f"{said}: the text has become {-found.likelier:.2f} less likely a token",
            f"This release computes nonsense, or is another model: {computing(accelerator)} If it is to be so, declare "
            "`unable: {fixed_text: ...}` in the service's `smoke`.",
        )
    if found.distance > most:
        return Judgement(
            True, said, "Compare the answers of both releases: image, flags or quantization changed what is computed."
        )
    return Judgement(True, said)


WEAK = (
    "The engine is well, the question is weak: declare `question`, `answer` and `margin` of the model's `smoke`, as "
    "scripts/margin.py finds them. Until then the other checks judge no words."
)


def judge_stream(
    pieces: Sequence[str],
    expected: str,
    *,
    finish_reason: str | None,
    completion_tokens: int | None,
    whole: str | None,
    whole_tokens: int | None,
    first_seconds: float | None,
) -> Judgement:
    """Judge a streamed answer: same words, several pieces, none lost, a finish reason, and usage at the end.

    ``whole`` is the same question's answer without streaming, of so many tokens. Another answer is reported, but is no failure: an
    engine that batches does not promise the same tokens twice, at temperature 0 either. The same answer with gaps in it, which
    took as many tokens, is one: the tokens were computed and did not arrive.
    """
    text = "".join(pieces)
    found = judge_answer(text, expected, finish_reason)
    if not found.ok and whole is not None and whole == text:
        return Judgement(False, "the streamed answer is the same wrong one", "See the check before.")
    if not found.ok:
        return found._replace(evidence=f"streamed: {found.evidence}")
    if len(pieces) < 2:
        return Judgement(
            False,
            f"the answer came in {len(pieces)} piece",
            "Something between client and engine collects the stream: look for buffering in the proxy.",
        )
    if finish_reason is None:
        return Judgement(
            False, "the stream ended without a finish reason: it was cut off", "Look at timeouts of the proxy."
        )
    if not completion_tokens:
        return Judgement(
            False, "the stream carried no usage at its end", "Check the engine's version and `stream_options`."
        )
    if whole is not None and completion_tokens == whole_tokens and _gaps(pieces, whole):
        return Judgement(
            False,
            f"{completion_tokens} tokens arrived as {_said(text)}, and without streaming as {_said(whole)}: pieces were lost",
            VERSION,
        )
    first = "" if first_seconds is None else f", first after {first_seconds * 1000:.0f} ms"
    same = "" if whole is None or whole == text else ", not word for word the answer without streaming"
    return Judgement(
        True, f"{len(pieces)} pieces{first}, {completion_tokens} tokens, finish reason {finish_reason}{same}"
    )


def _gaps(pieces: Sequence[str], whole: str) -> bool:
    """Whether the pieces are in the whole one after the other, and something of it between, before or after them is in none."""
    at = 0
    for piece in pieces:
        found = whole.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    # A reasoning parser may leave blanks around the answer in one of the two.
    return "".join(pieces).strip() != whole.strip()


def judge_reasoning(thinking: str, text: str, expected: str, finish_reason: str | None) -> Judgement:
    """Judge an answer whose thoughts must come apart from it."""
    found = judge_answer(text, expected, finish_reason, thinking=thinking)
    if not found.ok:
        return found
    if not thinking.strip():
        return Judgement(
            False,
            "the answer came without thoughts",
            "The model does not think, or `reasoning-parser` in `args` of the service is not the one of its family.",
        )
    return Judgement(True, f"{len(thinking)} characters of thoughts, apart from the answer {_said(text)}")


def judge_no_reasoning(thinking: str, text: str, expected: str, finish_reason: str | None) -> Judgement:
    """Judge an answer that was to come without thoughts."""
    if thinking.strip():
        return Judgement(
            False,
            f"{len(thinking)} characters of thoughts though they were switched off",
            "Check chat template and engine version; a model that always thinks is declared so, under `unable` of its `smoke`.",
        )
    return judge_answer(text, expected, finish_reason)


def judge_calls(
    calls: Sequence[tuple[str, str]], cities: Sequence[str], text: str, finish_reason: str | None
) -> Judgement:
    """Judge the tool calls of an answer, as (name, arguments): one of TOOL for each city, its arguments being JSON."""
    name = TOOL["function"]["name"]
    if not calls:
        return _no_call(text, finish_reason)
    wrong = f"Check chat template and `tool-call-parser` of the service: {name} with {' and '.join(cities)} was to be called."
    asked = []
    for called, arguments in calls:
        given = _arguments(arguments)
        if given is None:
            return Judgement(
                False,
                f"{called} was called with arguments that are no JSON: {shorten(arguments, 200)}",
                "Check `tool-call-parser` in `args` of the service.",
            )
        city = given.get("city")
        if called != name or not isinstance(city, str):
            return Judgement(False, f"{called} was called with {shorten(arguments, 200)}", wrong)
        asked.append(city)
    said = ", ".join(f"{name}({shorten(arguments, 100)})" for name, arguments in calls)
    if len(asked) < len(cities):
        return Judgement(
            False,
            f"{len(asked)} call for {len(cities)} questions: {said}",
            "If the model can't call several tools at once, declare so under `unable` of its `smoke`; else check the parser.",
        )
    if any(not any(city.casefold() in a.casefold() for a in asked) for city in cities):
        return Judgement(False, f"called {said}", wrong)
    return Judgement(True, said)


def judge_bare_call(calls: Sequence[tuple[str, str]], text: str, finish_reason: str | None) -> Judgement:
    """Judge the call of a tool that has no arguments: some parsers lose it, some give arguments that are no JSON."""
    name = BARE_TOOL["function"]["name"]
    if not calls:
        return _no_call(text, finish_reason)
    called, arguments = calls[0]
    if called != name or _arguments(arguments) != {}:
        return Judgement(
            False,
            f"{called} was called with {shorten(arguments, 200) or 'nothing'} instead of {name} with {{}}",
            "Check `tool-call-parser` in `args` of the service, and the engine's version.",
        )
    return Judgement(True, f"{called}({arguments})")


def _no_call(text: str, finish_reason: str | None) -> Judgement:
    return Judgement(
        False,
        f"no tool was called (finish reason {finish_reason}), it said {_said(text)}",
        "If that is a call in the model's own markup, `tool-call-parser` in `args` of the service is not the one of its family; "
        "else look at the chat template.",
    )


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        given = json.loads(text)
    except ValueError:
        return None
    return given if isinstance(given, dict) else None


def judge_stop(text: str, word: str, finish_reason: str | None) -> Judgement:
    """Judge an answer that had to stop before the given word."""
    if word in text:
        return Judgement(False, f"the answer goes on after the stop sequence “{word}”: {_said(text)}", VERSION)
    if finish_reason != "stop":
        return Judgement(
            False,
            f"finish reason {finish_reason} instead of stop, at the stop sequence “{word}”",
            "Raise `max_tokens` of the smoke test.",
        )
    return Judgement(True, f"stopped before “{word}”: {_said(text)}")


def judge_choices(answers: Sequence[Judgement], wanted: int) -> Judgement:
    """Judge several choices of one request, each judged as an answer before."""
    if len(answers) != wanted:
        return Judgement(False, f"{len(answers)} choices for n={wanted}", VERSION)
    wrong = [a for a in answers if not a.ok]
    if wrong:
        return wrong[0]._replace(evidence=f"{len(wrong)} of {wanted} choices are wrong: {wrong[0].evidence}")
    return Judgement(True, f"{wanted} choices, the first {answers[0].evidence}")


def judge_logprobs(tokens: Sequence[tuple[str, float, int]], top: int) -> Judgement:
    """Judge log probabilities, as (token, logprob, number of alternatives)."""
    wrong = [t for t in tokens if not (math.isfinite(t[1]) and t[1] <= 0.0 and t[2] == top)]
    if not tokens:
        return Judgement(False, "no log probabilities came back", VERSION)
    if wrong:
        token, value, found = wrong[0]
        return Judgement(False, f"{token!r} has log probability {value} and {found} alternatives of {top}", VERSION)
    return Judgement(
        True, f"{len(tokens)} tokens, the first {tokens[0][0]!r} with {tokens[0][1]:.3f}, {top} alternatives each"
    )


def judge_structured(text: str, finish_reason: str | None) -> Judgement:
    """Judge an answer that had to follow SCHEMA."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    remedy = "Check `structured-outputs-config` and `reasoning-parser` of the service, and the engine's version."
    if finish_reason == "length" and _ends_in_blanks(text):
        return Judgement(
            True, f"{_said(text)} follows the schema, and goes on with blanks, which JSON allows without end"
        )
    if not isinstance(found, dict):
        return Judgement(False, f"{_said(text)} is no JSON object (finish reason {finish_reason})", remedy)
    cities = SCHEMA["properties"]["city"]["enum"]
    rivers = SCHEMA["properties"]["rivers"]["items"]["enum"]
    named = found.get("rivers")
    held = (
        set(found) == set(SCHEMA["required"])
        and found["city"] in cities
        and isinstance(found["capital"], bool)
        and isinstance(named, list)
        and len(named) == 1
        and named[0] in rivers
    )
    if not held:
        return Judgement(False, f"{_said(text)} does not follow the schema", remedy)
    return Judgement(True, _said(text))


def _ends_in_blanks(text: str) -> bool:
    """Whether a text that was cut off begins as an answer of SCHEMA does, and then has nothing but blanks for a long while."""
    parts = SCHEMA["properties"]
    whole = (
        json.dumps({"city": city, "capital": capital, "rivers": [river]}, separators=(",", ":"))
        for city in parts["city"]["enum"]
        for capital in (True, False)
        for river in parts["rivers"]["items"]["enum"]
    )
    said = "".join(text.split())
    return len(text) - len(text.rstrip()) >= REPEATED and any(w.startswith(said) for w in whole)


def judge_unicode(pieces: Sequence[str]) -> Judgement:
    """Judge a stream that had to be UNICODE: nothing lost or broken where a character spans pieces."""
    text = "".join(pieces).strip()
    if text == UNICODE:
        return Judgement(True, f"{len(UNICODE.encode())} bytes in {len(pieces)} pieces, none lost")
    return Judgement(False, f"{_said(text)} instead of “{UNICODE}”", VERSION)


def judge_vision(text: str, left: str, right: str) -> Judgement:
    """Judge what was said of a picture: both colours, in their order, and no other one."""
    lower = text.casefold()
    named = sorted((c for c in COLOURS if c in lower), key=lower.index)
    if named == [left, right]:
        return Judgement(True, f"{left} and {right}: {_said(text)}")
    return Judgement(
        False,
        f"{_said(text)} for a picture of {left} and {right}",
        "Check the image processor (the engine's log), `limit-mm-per-prompt`, and the chat template's place for images.",
    )


def judge_events(events: Sequence[str], text: str, expected: str, stop_reason: str | None) -> Judgement:
    """Judge a stream in Anthropic's protocol: all kinds of events, each where it belongs."""
    seen = list(dict.fromkeys(e for e in events if e != "ping"))
    if tuple(seen) != ANTHROPIC_EVENTS or events[-1] != ANTHROPIC_EVENTS[-1]:
        return Judgement(False, f"events came as {', '.join(seen) or 'none'}", VERSION)
    if events.count("content_block_start") != events.count("content_block_stop"):
        return Judgement(False, "a content block was opened and not closed, or closed twice", VERSION)
    found = judge_answer(text, expected, stop_reason)
    return found._replace(evidence=f"{len(events)} events, {stop_reason}: {found.evidence}")


def judge_counts(few: int, many: int) -> Judgement:
    """Judge counted tokens of a question and of ten of it."""
    if not 0 < few < many:
        return Judgement(False, f"{few} tokens for the question and {many} for ten of it", VERSION)
    return Judgement(True, f"{few} tokens, {many} for ten of it")


def judge_needle(text: str, secret: str, finish_reason: str | None, tokens: int, *, thinking: str = "") -> Judgement:
    """Judge whether a word was found again in a prompt of so many tokens."""
    found = judge_answer(text, secret, finish_reason, thinking=thinking)
    if found.ok:
        return Judgement(True, f"{tokens:,} tokens: {found.evidence}")
    return Judgement(
        False,
        f"{tokens:,} tokens: {found.evidence}",
        "Compare with a shorter prompt and other attention settings; a model that can't look so far back has a smaller `needle` in "
        "its `smoke`.",
    )


def own_hits(hits: float, queries: float | None, tokens: int) -> float:
    """Tokens of a prompt that came from the cache for sure, at least, by how far the engine's counts went on meanwhile.

    hits: tokens found in the cache, queries: tokens looked for there, None when the engine does not count them; both of all
    clients. tokens: those of the prompt. What others looked for they may have found.
    """
    others = max(0.0, queries - tokens) if queries is not None else 0.0
    return max(0.0, hits - others)


def judge_prefix(hits: float | None, tokens: int, seconds: Sequence[float]) -> Judgement:
    """Judge two requests with a long beginning in common: the engine took most of it from its cache the second time.

    hits: tokens of the second one from the cache, for sure (see own_hits).
    """
    if hits is None:
        return Judgement(
            False, "the engine's metrics don't tell of cached tokens", "Check `metrics` and the engine's version."
        )
    times = " and ".join(f"{s * 1000:.0f}" for s in seconds)
    if hits < tokens / 2:
        return Judgement(
            False,
            f"{hits:.0f} of {tokens} tokens in common came from the cache for sure; {times} ms",
            "Set `enable-prefix-caching` to false if this model can't be cached; else check the size of the KV cache, and ask when "
            "nobody else uses the service.",
        )
    return Judgement(True, f"{hits:.0f} of {tokens} tokens in common came from the cache; {times} ms")


def judge_chunks(
    tokens: int, size: int, text: str, secret: str, finish_reason: str | None, *, thinking: str = ""
) -> Judgement:
    """Judge what was said to a prompt that takes the engine more than one step to read.

    secret: the word that a right answer holds, "" for a model that can't find one in so long a text: of it no sense is asked, only
    that it is no one token over and over, which is what numbers that are none look like.
    """
    if tokens <= size:
        return Judgement(
            False, f"the prompt has {tokens} tokens and not more than {size}", "Report this: it is miscounted."
        )
    read = f"{tokens:,} tokens, {size:,} at once"
    if secret:
        found = judge_answer(text, secret, finish_reason, thinking=thinking)
        return found._replace(evidence=f"{read}: {found.evidence}")
    said = text + thinking
    if not said.strip():
        return Judgement(False, f"nothing was said to {tokens:,} tokens", LOG)
    if len("".join(said.split())) >= REPEATED and len(set("".join(said.split()))) == 1:
        return Judgement(False, f"{_said(said)} was said to {tokens:,} tokens", LOG)
    return Judgement(True, f"{read}: {_said(said)}")


def judge_short(finish_reason: str | None, tokens: int | None) -> Judgement:
    """Judge an answer that had to be one token, whatever it says. tokens: those it took, None without usage."""
    if finish_reason is None or tokens != 1:
        return Judgement(
            False,
            f"{'no' if tokens is None else tokens} tokens instead of one (finish reason {finish_reason})",
            VERSION,
        )
    return Judgement(True, f"one token, finish reason {finish_reason}")


def judge_all(answers: Sequence[Judgement], what: str, seconds: float) -> Judgement:
    """Judge many requests at once, each of which was judged before."""
    wrong = [a for a in answers if not a.ok]
    if wrong:
        return wrong[0]._replace(evidence=f"{len(wrong)} of {len(answers)} {what} failed: {wrong[0].evidence}")
    return Judgement(True, f"{len(answers)} {what}, all answered rightly in {seconds:.1f} s")


class Left(NamedTuple):
    """What the engine's metrics said of a stream that its client left; they tell of all clients' requests together.

    before: requests that the engine had before the stream, after some patience when it had any; None when it does not tell. after:
    those that it still had so many seconds after the client had left, no more than before being waited for. ended: the stream
    had finished by itself. most: its tokens, had it not been left. computed: tokens made since before the stream, None when that
    tells nothing.
    """

    before: float | None
    after: float | None = None
    seconds: float = 0.0
    ended: bool = False
    most: int = 0
    computed: float | None = None


BUSY = "Ask when nobody else uses the service."


def judge_cancel(left: Left) -> Judgement:
    """Judge a stream that was left. Surest on an engine without other requests; with some, as many must be left as there were."""
    if left.ended:
        return Judgement(False, "the stream ended before it was left", "Check that `max_tokens` is honoured.")
    if left.before is None or left.after is None:
        return Judgement(
            False, "the engine's metrics don't tell how many requests it has", "Check the engine's version."
        )
    if left.after > left.before:
        return Judgement(False, f"still working {left.seconds:.1f} s after the client had left", f"{VERSION} {BUSY}")
    if left.computed is not None and left.computed >= left.most:
        return Judgement(
            False,
            f"{left.computed:.0f} tokens were computed for a stream of {left.most} that was left at its first: it was not given up",
            f"{VERSION} {BUSY}",
        )
    beside = f", beside {left.before:g} requests of others" if left.before else ""
    return Judgement(True, f"given up {left.seconds:.1f} s after the client had left{beside}")


def judge_bad_requests(answers: Mapping[str, int], *, alive: bool) -> Judgement:
    """Judge the statuses of wrong requests, and whether the engine lives after them."""
    if not alive:
        return Judgement(
            False,
            "the engine is not healthy after wrong requests",
            "Read its log, and take another version of the image.",
        )
    wrong = [f"{what} got {status or 'no answer'}" for what, status in answers.items() if not 400 <= status < 500]
    if wrong:
        return Judgement(False, f"{'; '.join(wrong)} instead of 4xx", LOG)
    return Judgement(True, ", ".join(f"{what}: {status}" for what, status in answers.items()))


class Speed(NamedTuple):
    """How fast one stream was: tokens per second from the request to the last one, and milliseconds to the first."""

    tokens_per_second: float
    ttft_ms: float


FLOOR_MS = 200.0
"""Milliseconds to the first token that are never too slow: below, what else the machine does decides."""


def fast_enough(found: Speed, usual: Speed, share: float) -> bool:
    """Whether a speed is not far below the usual one; share: how much of it is asked for, 0 for none."""
    if not share:
        return True
    return (
        found.tokens_per_second >= usual.tokens_per_second * share and found.ttft_ms <= usual.ttft_ms / share + FLOOR_MS
    )


def crowded(waiting: Sequence[int], cores: int) -> bool:
    """Whether a machine had far more to do than it can: most times it was looked at, over twice as many tasks as it has cores.

    waiting: tasks that ran or could have run, each time; the one that looks is one of them.
    """
    return bool(waiting) and sorted(waiting)[len(waiting) // 2] > 2 * cores + 1


def judge_speed(found: Speed, usual: Speed | None, share: float, *, busy: bool = False) -> Judgement:
    """Judge the best of some streams by what this release did on this host before. busy: the machine was, by other work."""
    said = f"{found.tokens_per_second:.1f} tokens/s, first after {found.ttft_ms:.0f} ms"
    if usual is None:
        return Judgement(True, f"{said}; the first of this release here")
    said = f"{said}; usual are {usual.tokens_per_second:.1f} tokens/s and {usual.ttft_ms:.0f} ms"
    if fast_enough(found, usual, share):
        return Judgement(True, said)
    if busy:
        return Judgement(
            True,
            f"{said}; other work has taken the processors meanwhile, so that this tells nothing of the release",
            "Ask again when the machine is less busy.",
        )
    return Judgement(
        False,
        f"{said}, and {share:g} of that is asked for",
        "The engine's caches may be damaged, or something else uses this machine. `slowest` of the service's `smoke` is the share.",
    )


def summary(service: str, checks: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """Return one message about checks: what failed, why, and what to do."""
    out = f" ({len(left_out)} left out: {'; '.join(f'{k}: {why}' for k, why in left_out.items())})" if left_out else ""
    failed = [said(c) for c in checks if not c["ok"]]
    if not failed:
        return f"{service}: all {len(checks)} checks passed{out}"
    return f"{service}: {len(failed)} of {len(checks)} checks failed{out}. " + " | ".join(failed)


def said(check: Mapping[str, Any]) -> str:
    """One check for a person: its id, what came back, and what to do."""
    return f"{check['id']}: {check['evidence'].rstrip('. ')}. {check['remedy']}"


def warnings(service: str, checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Checks that passed and that somebody should look at all the same, as text."""
    return [f"{service}: {said(c)}" for c in checks if c["ok"] and c["remedy"]]
