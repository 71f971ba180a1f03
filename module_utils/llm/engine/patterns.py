"""Rows of the tables by which an engine's log is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Phase:
    """A stretch of the boot: its name, what a user reads, and the lines that show that it has begun."""

    name: str
    text: str
    begins: re.Pattern[str]


def any_of(*patterns: str) -> re.Pattern[str]:
    """One pattern for several."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


@dataclass(frozen=True)
class Number:
    """A number that an engine tells of itself: its key, the line that has it, how it is read."""

    key: str
    pattern: re.Pattern[str]
    convert: Callable[[str], Any]
    # Workers of one engine each report theirs: the largest need and the smallest room are the ones that count.
    choose: Callable[[Any, Any], Any] = max


def integer(text: str) -> int:
    """A whole number, written with commas or without."""
    return int(text.replace(",", ""))


@dataclass(frozen=True)
class Rule:
    """A cause of failed boots: the line that shows it; `{name}` in its texts stands for a group of the pattern."""

    id: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str


def rule(name: str, pattern: str, cause: str, remedy: str) -> Rule:
    """A rule of a pattern that is written as text."""
    return Rule(name, re.compile(pattern), cause, remedy)
