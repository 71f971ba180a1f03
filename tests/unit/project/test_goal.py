"""Training of the test models goes on until exam and share are reached, and ends with a message beyond the bound."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.models import goal


def measured(*margins: float, right: int = 100) -> goal.Measured:
    exam = [goal.Margin(least, f"item {number}") for number, least in enumerate(margins)]
    return goal.Measured(exam, Counter(call=60, needle=40), Counter(call=60, needle=right - 60))


GOOD = measured(1.5, 7.0)


def reach(*found: goal.Measured) -> tuple[bool, list[tuple[int, float]], list[str]]:
    """What comes of measuring these after one round each, the last again and again: the rounds, and what was said."""
    trained: list[tuple[int, float]] = []
    said: list[str] = []
    turns = list(found)
    reached = goal.reach(
        lambda steps, share: trained.append((steps, share)),
        lambda: turns.pop(0) if len(turns) > 1 else turns[0],
        said.append,
    )
    return reached, trained, said


def test_a_first_round_that_is_enough_is_the_only_one() -> None:
    reached, trained, said = reach(GOOD)
    assert (reached, trained) == (True, [(goal.FIRST, 1.0)])
    assert said == [
        f"{goal.FIRST} steps, right to the letter: exam 2 of 2, least margin 1.50 at item 0; "
        "held out: call 60 of 60, needle 40 of 40"
    ]


@pytest.mark.parametrize(
    ("short", "words"),
    [
        (measured(1.49, 7.0), "1 of 2 answers of the exam are wrong or have a margin below 1.5"),
        (measured(-3.0, -0.1), "2 of 2 answers of the exam"),
        (measured(math.nan, 7.0), "1 of 2 answers of the exam"),
        (measured(7.0, 7.0, right=89), "89 of 100 held-out answers are right, and 90% must be"),
    ],
)
def test_what_is_not_enough_is_said_and_trained_on(short: goal.Measured, words: str) -> None:
    reached, trained, said = reach(short, short, GOOD)
    assert reached and [steps for steps, _ in trained] == [goal.FIRST, 400, 400]
    assert trained[1][1] < trained[0][1], "a later round must not undo what was learned"
    assert sum(words in line for line in said) == 2 and said[-1].startswith(
        f"{goal.FIRST + 800} steps, right to the letter: exam 2 of 2"
    )


def test_beyond_the_bound_it_says_what_is_missing_and_what_to_do() -> None:
    reached, trained, said = reach(measured(math.nan, 0.3, right=61))
    assert not reached and sum(steps for steps, _ in trained) == 3 * goal.FIRST
    assert said[-1].startswith("not kept: 2 of 2 answers of the exam") and "61 of 100 held-out answers" in said[-1]
    assert f"{3 * goal.FIRST} steps are the bound" in said[-1] and "lscpu" in said[-1] and "SEED" in said[-1]


def test_the_least_margin_is_named() -> None:
    assert measured(7.0, 2.0, 3.0).least() == goal.Margin(2.0, "item 1")
    assert measured(7.0, math.nan, -3.0).least().where == "item 1"
