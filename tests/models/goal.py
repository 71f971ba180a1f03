"""When a test model has learned enough, and how its training goes on until then.

Standard library alone: unit tests judge it without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# The first round was enough in all of 16 trials (README.md). Rounding decides when a model finds out how to copy a word from the
# question into the answer, and may put it off: so training goes on in short rounds, three times as long at most.
FIRST, MORE, ROUNDS = 1200, 400, 6  # steps of the first round and of each after it, and how many of these at most
AGAIN = 0.5  # share of the first round's rates at which a later one begins
MARGIN = 1.5  # nats between the logit of each token of an answer in the exam and the next likely token's
PASS = 0.9  # share of the held-out answers that must be right to the letter


@dataclass(frozen=True)
class Margin:
    """How much likelier the wanted token is than any other where that is least (nats; below zero: not the likeliest)."""

    least: float
    where: str


@dataclass(frozen=True)
class Measured:
    """The margin of each exam item, and the kinds of the held-out conversations: all, and those right to the letter."""

    exam: Sequence[Margin]
    asked: Counter[str]
    right: Counter[str]

    def least(self) -> Margin:
        """The least margin of the exam. One that is not a number is the least of all."""
        return min(self.exam, key=lambda margin: (margin.least == margin.least, margin.least))

    def missing(self) -> list[str]:
        """What is below the goal, in words; empty when it is reached."""
        found = []
        low = sum(not margin.least >= MARGIN for margin in self.exam)
        if low:
            found.append(f"{low} of {len(self.exam)} answers of the exam are wrong or have a margin below {MARGIN}")
        right, asked = self.right.total(), self.asked.total()
        if right < PASS * asked:
            found.append(f"{right} of {asked} held-out answers are right, and {PASS:.0%} must be")
        return found

    def __str__(self) -> str:
        least = self.least()
        kinds = ", ".join(f"{kind} {self.right[kind]} of {self.asked[kind]}" for kind in sorted(self.asked))
        right = sum(margin.least > 0 for margin in self.exam)
        exam = f"exam {right} of {len(self.exam)}, least margin {least.least:.2f} at {least.where}"
        return f"right to the letter: {exam}; held out: {kinds}"


def rounds() -> Iterator[tuple[int, float]]:
    """Steps of each round, and the share of the full rates at which it begins."""
    yield FIRST, 1.0
    for _ in range(ROUNDS):
        yield MORE, AGAIN


def reach(train: Callable[[int, float], None], measure: Callable[[], Measured], say: Callable[[str], None]) -> bool:
    """Train round by round until what is measured after one is enough: whether it came to that within the bound."""
    done, missing = 0, [""]
    for steps, share in rounds():
        train(steps, share)
        done += steps
        found = measure()
        say(f"{done} steps, {found}")
        missing = found.missing()
        if not missing:
            return True
        say(f"not enough yet: {'; '.join(missing)}")
    say(
        f"not kept: {'; '.join(missing)}, and {done} steps are the bound. Report these lines with the processor's name "
        "(lscpu); until that is mended, another SEED in tests/models/train.py may get there"
    )
    return False
