"""Which prompts warm an engine up, and how long they must be. Pure: module llm_warmup sends the requests.

The prompts are random words: a fixed text would be answered from the prefix cache the second time, and the times
would be those of the cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible.module_utils.llm.engine import judge
from ansible.module_utils.llm.engine.metrics import Sample

# Short and common, so that nearly every tokenizer has each as one token with the space before it; the calibration
# corrects what is left.
WORDS = tuple(
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its "
    "about into than them can only other new some could time these two may then do first any my now such like our "
    "over man me even most made after also did many before must through back years where much your way well down "
    "should because each just those people how too little state good very make world still own see men work long "
    "get here between both life being under never day same another know while last might us great old year off "
    "come since against go came right used take three".split()
)

MARGIN = 0.01
"""Part of the context kept free: tokens at a word's edge vary a little with the words."""


FIRST, STEP = 50, 4
"""Sizes where none are declared: from so many tokens, each so many times the one before, to the whole context."""
SENT = 2
"""Prompts of a size that make it warm."""
HISTOGRAM = "vllm:request_prefill_kv_computed_tokens_bucket"
"""Finished requests by the tokens that were computed for their prompt; those that came from the prefix cache don't count."""


def ladder(context: int) -> list[int]:
    """Sizes from FIRST tokens to the context."""
    sizes, size = [], FIRST
    while size < context:
        sizes.append(size)
        size *= STEP
    return [*sizes, context]


def warm(metrics: Iterable[Sample], targets: Sequence[int]) -> bool:
    """Whether an engine has computed prompts of all these sizes since it started, by its own count, whoever sent them."""
    buckets: dict[float, float] = {}
    for sample in metrics:
        if sample.name == HISTOGRAM:
            edge = float(sample.labels["le"].replace("+Inf", "inf"))
            buckets[edge] = buckets.get(edge, 0.0) + sample.value
    edges = sorted(buckets)

    def computed(tokens: int) -> float:
        here = next((n for n, edge in enumerate(edges) if tokens <= edge), None)
        if here is None:
            return 0.0
        return buckets[edges[here]] - (buckets[edges[here - 1]] if here else 0.0)

    return bool(targets) and all(computed(target) >= SENT for target in targets)


def picture(rng: random.Random, side: int = 448) -> bytes:
    """A PNG of noise, coarse so that it stays small: one that no cache knows."""
    coarse = side // 16
    rows = [bytes(rng.randrange(256) for _ in range(3 * coarse)) for _ in range(coarse)]
    wide = [b"".join(row[n : n + 3] * 16 for n in range(0, len(row), 3)) for row in rows]
    return judge.png(b"".join(row * 16 for row in wide), side)


def summary(service: str, result: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """Return one message about all rows of a result."""
    forms = {
        "sizes": "{prompt_tokens} tokens",
        "concurrency": "{concurrency} at once",
        "prefix": "{prompt_tokens} tokens, then the same beginning",
        "images": "a picture",
    }
    parts = []
    for kind, form in forms.items():
        for row in result.get(kind, ()):
            what = form.format(**row)
            if row["status"] == "ok":
                parts.append(f"{what}: {row['first_ms']:.0f} / {row['second_ms']:.0f} ms")
            else:
                parts.append(f"{what}: {row['status']}" + (f" ({row['reason']})" if "reason" in row else ""))
    return f"{service}: time to first token, first / second: " + "; ".join(parts)


def prompt(words: int, rng: random.Random) -> str:
    """Return so many random words."""
    return " ".join(rng.choices(WORDS, k=max(1, words)))


@dataclass(frozen=True)
class Calibration:
    """How many tokens a prompt of n words has: ``overhead + per_word * n``. The chat template is the overhead."""

    per_word: float
    overhead: float

    def words_for(self, tokens: int) -> int:
        """Return the largest number of words, at least 1, whose prompt has no more than so many tokens."""
        return max(1, int((tokens - self.overhead) / self.per_word))


def calibrate(probes: Sequence[tuple[int, int]]) -> Calibration:
    """Fit (words, prompt tokens as the engine counted them) of two probes of different length.

    Raises ValueError when the counts cannot be true (fewer tokens for more words).
    """
    (few, low), (many, high) = min(probes), max(probes)
    if many <= few or high <= low:
        raise ValueError(f"{few} words were {low} tokens and {many} words {high}: the engine's usage numbers are wrong")
    per_word = (high - low) / (many - few)
    return Calibration(per_word, max(0.0, low - few * per_word))


@dataclass(frozen=True)
class Size:
    """One declared prompt size: what to aim at, in tokens, or why it is left out."""

    declared: int
    target: int = 0
    skip: str = ""


def plan(sizes: Sequence[int], context: int, answer_tokens: int) -> list[Size]:
    """Decide what to send for each declared size, in the order declared.

    ``context`` is the engine's max_model_len; a size beyond it is skipped with the reason. One that fits only just is
    sent a little shorter, so that prompt, answer and margin stay inside.
    """
    room = context - answer_tokens - max(8, int(context * MARGIN))
    planned = []
    for size in sizes:
        if size < 1:
            planned.append(Size(size, skip="a prompt has at least one token"))
        elif size > context:
            planned.append(Size(size, skip=f"longer than the context of {context} tokens"))
        elif room < 1:
            planned.append(Size(size, skip=f"a context of {context} tokens leaves no room for a prompt"))
        else:
            planned.append(Size(size, target=min(size, room)))
    return planned
