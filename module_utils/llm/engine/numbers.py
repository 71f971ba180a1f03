"""What an engine's log-probabilities tell: how sure a known answer is, and whether a fixed text still gets the numbers it got.

Pure. Log-probabilities are in nats. Text flips where the likeliest token and the next one are nearly as likely, since each
processor, kernel and batch size rounds differently; numbers show which it was, a near tie or an engine that computes nonsense.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LEAST_MARGIN = 1.5
"""Nats by which the likeliest token of a known answer has to lead, all along up to its deciding word. Rounding moved the distance
of two tokens by up to 0.38 (docs/experiments/known-answer-margin.yml): four times that. Sampling at temperature 0.05 takes a
token that is so far behind once in 10^13."""
FORKS = 4
"""Near ties of a wrong answer at which the other token is tried."""
SURE = 24
"""Tokens of a wrong answer that are searched for near ties: what comes later follows from them."""
REPEATED_SHARE = 0.6
"""Share of 4-grams that occurred before, from which on a text that has no end goes round in circles: see docs/smoke.md for what was
recorded of right and wrong texts."""
SAME_RELEASE, OTHER_RELEASE = 0.1, 0.5
"""Mean distance of a fixed text's log-probabilities, in nats a token, beyond which they are not what they were: of one release, and
of two releases of one model, which may differ in image, flags and quantization. What right and wrong engines gave is in
docs/experiments/fixed-text.yml."""
WORSE = 1.0
"""Nats a token by which a fixed text may become less likely from one release of a model to another before that is nonsense."""
SPREADS = 3
"""So many times the largest distance that was recorded between readings of one release is no difference either."""

TEXT = (
    "The harbour was quiet in the morning. Two fishermen sat on the wall and mended their nets while a small boat came in with the "
    "tide. In 1969 people walked on the moon for the first time. Twelve times twelve is 144, and water boils at 100 degrees. "
    "def add(a, b): return a + b"
)
"""What every release is asked the log-probabilities of: plain English, numbers, code."""

_NO_BLANKS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Chinese characters, Hangul: a word each
_WORD = re.compile(rf"[{_NO_BLANKS}]|[^\W{_NO_BLANKS}]+")


class Step(NamedTuple):
    """A token of an answer as it was generated: its bytes, its log-probability, and the likeliest other ones, likeliest first.

    others: as the engine names them, by their text or by their numbers, with their log-probabilities.
    """

    token: bytes
    logprob: float
    others: tuple[tuple[str, float], ...] = ()

    @property
    def lead(self) -> float:
        """Nats by which the token leads the likeliest other one: 0 when that was likelier, infinite when none was given."""
        return max(0.0, self.logprob - self.others[0][1]) if self.others else math.inf


def deciding(steps: Sequence[Step], content: str, word: str) -> range:
    """Positions of the steps that make up the content (what clients see, without thoughts) up to the end of the first such word.

    Empty when the steps are not those of the content, or it has no such word: then nothing is known of its margin.
    """
    said, answer = b"".join(step.token for step in steps), content.strip()
    at = answer.lower().find(word.lower())
    start = said.rfind(answer.encode())
    if at < 0 or start < 0 or not answer:
        return range(0)
    end = start + len(answer[: at + len(word)].encode())
    ends: list[int] = []
    for step in steps:
        ends.append((ends[-1] if ends else 0) + len(step.token))
    first = next(i for i, e in enumerate(ends) if e > start)
    last = next(i for i, e in enumerate(ends) if e >= end)
    return range(first, last + 1)


def margin(steps: Sequence[Step], content: str, word: str) -> float | None:
    """Least lead of the tokens that make up an answer up to its deciding word, in nats; None when it is not known."""
    leads = [steps[i].lead for i in deciding(steps, content, word)]
    return min(leads) if leads and math.isfinite(min(leads)) else None


class Fork(NamedTuple):
    """A near tie: the position of a token, another one that is nearly as likely, both log-probabilities."""

    at: int
    token: str
    logprob: float
    other: str
    other_logprob: float

    def __str__(self) -> str:
        """The near tie in words, for a person."""
        return f"token {self.at + 1} ({self.token!r} {self.logprob:.2f}, {self.other!r} {self.other_logprob:.2f})"


def forks(steps: Sequence[Step], limit: float = LEAST_MARGIN) -> list[Fork]:
    """Near ties among the first tokens, the nearest first: where another processor might have taken the other token."""
    found = [
        Fork(at, step.token.decode("utf-8", "replace"), step.logprob, other, logprob)
        for at, step in enumerate(steps[:SURE])
        for other, logprob in step.others
        if step.logprob - logprob < limit
    ]
    return sorted(found, key=lambda f: f.logprob - f.other_logprob)[:FORKS]


def repeated(text: str) -> float:
    """Share of a text's 4-grams that occurred in it before: of words, and of marks where it has no words.

    Marks beside words don't count, which are much the same in every line of a table, of code or of JSON.
    """
    words = _WORD.findall(text) or re.findall(r"\S", text)
    grams = Counter(zip(*(words[i:] for i in range(4)), strict=False))
    return 1 - len(grams) / grams.total() if grams else 0.0


class Reading(NamedTuple):
    """Log-probabilities of TEXT by one release, without its first token, which has none.

    model: whose they are, by its name in the declaration. text: hash of TEXT's tokens. spread: largest mean distance between
    readings of this release; readings: how many there were.
    """

    model: str
    release: str
    text: str
    logprobs: tuple[float, ...]
    spread: float = 0.0
    readings: int = 1

    @property
    def mean(self) -> float:
        """Mean log-probability of a token."""
        return sum(self.logprobs) / len(self.logprobs)

    def as_dict(self) -> dict[str, Any]:
        """The reading as JSON, in the shape that a verdict keeps."""
        return {**self._asdict(), "logprobs": list(self.logprobs), "spread": round(self.spread, 4)}


def reading(model: str, release: str, tokens: Sequence[str], logprobs: Sequence[float | None]) -> Reading | None:
    """What an engine gave for TEXT, tokens generated after it included; None when these are not its log-probabilities."""
    said = ""
    for count, token in enumerate(tokens, 1):
        said += token
        if said.strip() == TEXT:
            found = [v for v in logprobs[1:count] if v is not None]
            digest = hashlib.sha256("\x00".join(tokens[:count]).encode()).hexdigest()[:16]
            whole = len(found) == count - 1 > 0
            return Reading(model, release, digest, tuple(round(v, 3) for v in found)) if whole else None
    return None


def held(entry: object) -> Reading | None:
    """A reading out of a verdict; None when there is none, or it makes no sense."""
    if not isinstance(entry, Mapping) or set(entry) != set(Reading._fields):
        return None
    values, kinds = entry["logprobs"], (("model", str), ("release", str), ("text", str), ("readings", int))
    numbers = isinstance(values, list) and values and all(isinstance(v, (int, float)) for v in values)
    if (
        not numbers
        or not isinstance(entry["spread"], (int, float))
        or any(not isinstance(entry[name], kind) for name, kind in kinds)
    ):
        return None
    return Reading(**{**entry, "logprobs": tuple(values)})


class Change(NamedTuple):
    """How two readings differ, in nats a token: mean distance, and by how much the text became likelier on the mean."""

    distance: float
    likelier: float


def change(now: Reading, before: Reading | None) -> Change | None:
    """How a reading differs from an earlier one; None when the two can't be compared: another model, or another tokenizer."""
    if before is None or not now.model or (now.model, now.text) != (before.model, before.text):
        return None
    pairs = list(zip(now.logprobs, before.logprobs, strict=True))
    return Change(sum(abs(a - b) for a, b in pairs) / len(pairs), now.mean - before.mean)


def merged(now: Reading, before: Reading | None) -> Reading:
    """The reading that a verdict keeps: the first one of a release, with the largest distance of later ones to it."""
    found = change(now, before)
    if found is None or before is None or before.release != now.release:
        return now
    return before._replace(spread=max(before.spread, found.distance), readings=before.readings + 1)


def limit(now: Reading, before: Reading) -> float:
    """Mean distance in nats a token beyond which two readings differ by more than rounding and the recorded spread."""
    base = SAME_RELEASE if now.release == before.release else OTHER_RELEASE
    return max(base, SPREADS * before.spread)
