"""What log-probabilities tell: margins, near ties, circles, and what a fixed text got before."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llm_smoke
import pytest
from ansible.module_utils.llm.engine import checks, judge, numbers
from ansible.module_utils.llm.engine.numbers import Step

TEXTS = json.loads((Path(__file__).parents[1] / "data" / "texts.json").read_text(encoding="utf-8"))


def path(*tokens: tuple[str, float, float]) -> list[Step]:
    """Steps by text, log-probability and that of the next token."""
    return [Step(text.encode(), logprob, (("other", other),)) for text, logprob, other in tokens]


ANSWER = path(
    ("The", -0.3, -2.8), (" city", -0.1, -3.1), (" is", -0.1, -1.9), (" Tokyo", -0.1, -4.0), (".", -0.7, -0.8)
)


def test_a_margin_is_the_least_lead_up_to_the_deciding_word() -> None:
    assert numbers.margin(ANSWER, "The city is Tokyo.", "tokyo") == pytest.approx(1.8)
    assert numbers.margin(ANSWER, "The city is Tokyo.", "Tokyo.") == pytest.approx(0.1), (
        "the point is part of the word here"
    )
    assert numbers.margin(ANSWER, "The city is Tokyo.", "Kyoto") is None
    assert numbers.margin(ANSWER, "Another text with Tokyo", "Tokyo") is None
    assert numbers.margin([Step(b"Tokyo", -0.1)], "Tokyo", "Tokyo") is None, "without the next token nothing is known"
    assert numbers.margin([], "", "x") is None


def test_thoughts_count_for_no_margin() -> None:
    thought = path(("<think>", -0.1, -9.0), (" Tokyo", -0.5, -0.6), ("</think>", -0.1, -0.2), ("\n", -0.1, -0.3))
    assert numbers.margin([*thought, *ANSWER], "\nThe city is Tokyo.", "Tokyo") == pytest.approx(1.8)


def test_a_token_that_another_one_leads_has_no_lead() -> None:
    assert Step(b"a", -2.0, (("b", -1.0),)).lead == 0.0
    assert math.isinf(Step(b"a", -2.0).lead)


def test_characters_of_several_bytes_are_counted_as_bytes() -> None:
    steps = [Step("Zür".encode()[:2], -0.1, (("x", -9.0),)), Step("Zür".encode()[2:], -0.1, (("x", -2.0),))]
    assert numbers.margin(steps, "Zür", "zür") == pytest.approx(1.9)


def test_near_ties_are_listed_nearest_first_and_few() -> None:
    steps = path(*[("t", -1.0, -1.0 - 0.1 * n) for n in range(40)])
    found = numbers.forks(steps)
    assert [f.at for f in found] == [0, 1, 2, 3] and str(found[1]) == "token 2 ('t' -1.00, 'other' -1.10)"
    assert numbers.forks(path(("t", -0.1, -1.7))) == []
    assert numbers.forks([*path(*[("t", -0.1, -9.0)] * numbers.SURE), *path(("t", -0.1, -0.2))]) == [], (
        "too late to decide"
    )


@pytest.mark.parametrize("name", TEXTS["right"])
def test_lists_tables_and_code_are_no_circles(name: str) -> None:
    text = TEXTS["right"][name]
    assert len(text.split()) >= 30 and judge.judge_repetition(text, "length").ok, numbers.repeated(text)


@pytest.mark.parametrize("name", TEXTS["wrong"])
def test_what_engines_said_without_end_is_one(name: str) -> None:
    text = TEXTS["wrong"][name]
    assert not judge.judge_repetition(text, "length").ok, numbers.repeated(text)
    assert judge.judge_repetition(text, "stop").ok, "it has an end"


def test_there_is_room_between_right_and_wrong_texts() -> None:
    right, wrong = ([numbers.repeated(t) for t in TEXTS[kind].values()] for kind in ("right", "wrong"))
    assert max(right) + 0.1 < numbers.REPEATED_SHARE < min(wrong) - 0.1, (max(right), min(wrong))
    assert numbers.repeated("") == numbers.repeated("one two three") == 0.0
    assert numbers.repeated("東京" * 30) > 0.9 and numbers.repeated("!" * 60) > 0.9


def tokens(text: str = numbers.TEXT) -> list[str]:
    return [word if n == 0 else f" {word}" for n, word in enumerate(text.split(" "))]


def made(release: str = "one", shift: float = 0.0, noise: float = 0.0, model: str = "m") -> numbers.Reading:
    rng = random.Random(release)
    logprobs = [None, *(-2.0 - n % 5 + shift + rng.choice([-noise, noise]) for n in range(len(tokens())))]
    found = numbers.reading(model, release, [*tokens(), " more"], logprobs)
    assert found is not None
    return found


def test_a_reading_is_of_the_whole_text_and_nothing_else() -> None:
    assert len(made().logprobs) == len(tokens()) - 1
    assert numbers.reading("m", "r", tokens()[:-1], [None] + [-1.0] * len(tokens())) is None
    assert numbers.reading("m", "r", ["x", *tokens()], [None] + [-1.0] * len(tokens())) is None
    assert numbers.reading("m", "r", tokens(), [None] * len(tokens())) is None
    assert numbers.reading("m", "r", ["<s>", *tokens()], []) is None


@pytest.mark.parametrize(
    "damage", [{"logprobs": []}, {"logprobs": ["x"]}, {"spread": "x"}, {"more": 1}, {"readings": None}]
)
def test_a_reading_survives_its_verdict_and_a_damaged_one_is_none(damage: dict[str, Any]) -> None:
    kept = json.loads(json.dumps(made().as_dict()))
    assert numbers.held(kept) == made()
    assert numbers.held({**kept, **damage}) is None and numbers.held("x") is None


@pytest.mark.parametrize(
    ("now", "before", "ok", "warns", "words"),
    [
        (made(), None, True, False, "nothing to compare"),
        (made("two", noise=0.05), made(), True, False, "is rounding"),
        (made("two", noise=0.8), made(), True, True, "0.800 apart"),
        (made("two", shift=-1.5), made(), False, True, "1.50 less likely"),
        (made("two", shift=1.5), made(), True, True, "apart"),
        (made(noise=0.2), made(), True, True, "0.200 apart"),
        (made(noise=0.2), made()._replace(spread=0.1), True, False, "up to 0.300"),
        (made("two", noise=0.8, model="n"), made(), True, False, "nothing to compare"),
        (made("two", noise=0.8), made()._replace(text="other tokens"), True, False, "nothing to compare"),
        (None, made(), True, False, "no log-probabilities"),
        (made()._replace(logprobs=(math.nan,)), made(), False, True, "no numbers"),
    ],
)
def test_a_fixed_text_is_judged_by_what_it_got_before(
    now: numbers.Reading | None, before: numbers.Reading | None, ok: bool, warns: bool, words: str
) -> None:
    found = judge.judge_fixed_text(now, before, "cpu")
    assert (found.ok, bool(found.remedy), words in found.evidence) == (ok, warns, True), found


def test_the_first_reading_of_a_release_is_kept_with_the_spread_of_later_ones() -> None:
    first, later = made(), made(noise=0.02)
    kept = numbers.merged(later, first)
    assert kept.logprobs == first.logprobs and kept.readings == 2 and kept.spread == pytest.approx(0.02, abs=1e-3)
    assert numbers.merged(made("two"), first) == made("two") and numbers.merged(first, None) == first


class NumberedStub:
    """A stub of the SDK before an engine that gives log-probabilities: what it says is scripted, token by token.

    tail: what it says behind the other token of a near tie.
    """

    def __init__(self, steps: list[Step], tail: str = "", refuses: bool = False) -> None:
        self.steps, self.tail, self.refuses = steps, tail, refuses
        self.asked: list[dict[str, Any]] = []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))
        self.completions = SimpleNamespace(create=self.complete)

    def create(self, **request: Any) -> Any:
        self.asked.append(request)
        if request.get("logprobs") and self.refuses:
            error = ValueError("logprobs are not supported")
            error.status_code = 400  # type: ignore[attr-defined]
            raise error
        content = [
            SimpleNamespace(
                token=step.token.decode(),
                bytes=list(step.token),
                logprob=step.logprob,
                top_logprobs=[
                    SimpleNamespace(token=f"token_id:{77 + n}", logprob=o[1]) for n, o in enumerate(step.others)
                ],
            )
            for step in self.steps
        ]
        text = "".join(step.token.decode() for step in self.steps)
        message = SimpleNamespace(content=text, reasoning=None, reasoning_content=None)
        choice = SimpleNamespace(
            message=message,
            finish_reason="stop",
            token_ids=list(range(len(self.steps))),
            logprobs=SimpleNamespace(content=content) if request.get("logprobs") else None,
        )
        return SimpleNamespace(choices=[choice], usage=None, prompt_token_ids=[1, 2, 3])

    def complete(self, **request: Any) -> Any:
        self.asked.append(request)
        said = ["<p>"] * 3 + [s.token.decode() for s in self.steps[: len(request["prompt"]) - 4]] + [self.tail]
        return SimpleNamespace(choices=[SimpleNamespace(logprobs=SimpleNamespace(tokens=said, token_logprobs=[]))])


def asked(stub: NumberedStub) -> checks.Client:
    params = {"question": "Capital?", "answer": "Tokyo", "max_tokens": 100, "args": {}, "unable": {}, "timeout": 1}
    params |= {"model": "fake", "base_url": "http://fake/v1", "health_url": None, "accelerator": "cpu"}
    return checks.Client(params, "k", stub, None)


WRONG = path(("K", -1.0, -1.1), ("yoto", -0.1, -5.0))


def test_a_right_answer_tells_its_margin() -> None:
    service = asked(NumberedStub(ANSWER))
    found = service.answer()
    assert found == (True, "“The city is Tokyo.”, margin 1.80", "") and service.expected == "Tokyo"
    assert llm_smoke.numbers_of(service)["margin"] == 1.8


def test_of_a_right_answer_that_is_nearly_a_tie_no_other_check_asks_words() -> None:
    service = asked(NumberedStub(path(("Tokyo", -0.7, -0.8))))
    found = service.answer()
    assert found.ok and "nearly a tie" in found.evidence and "scripts/margin.py" in found.remedy
    assert service.judged(NumberedStub(WRONG).create().choices[0]).ok, "other checks judge what they are about"
    assert not service.judged(NumberedStub([]).create().choices[0]).ok, "and an empty answer is none"


def test_a_wrong_answer_that_a_near_tie_explains_is_told_from_nonsense() -> None:
    stub = NumberedStub(WRONG, tail="Tokyo it is")
    found = asked(stub).answer()
    assert found.ok and "token 1 ('K' -1.00, 'Tokyo it is' -1.10) is a near tie" in found.evidence, found
    assert stub.asked[-1]["prompt"] == [1, 2, 3, 77], "behind the other token, by its number"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (WRONG, "no other token of 1 near ties leads there (mean log-probability -0.55, the least lead 0.10)"),
        (path(("Rome", -0.1, -5.0)), "there is no near tie (mean log-probability -0.10, the least lead 4.90)"),
    ],
)
def test_a_wrong_answer_that_no_near_tie_explains_is_nonsense(steps: list[Step], words: str) -> None:
    found = asked(NumberedStub(steps, tail="Osaka")).answer()
    assert not found.ok and words in found.evidence and "dtype: float32" in found.remedy, found


def test_an_engine_without_log_probabilities_is_judged_by_text_and_says_so() -> None:
    assert "by its text alone" in asked(NumberedStub(ANSWER, refuses=True)).answer().evidence
    found = asked(NumberedStub(WRONG, refuses=True)).answer()
    assert not found.ok and "does not hold “Tokyo”" in found.evidence
