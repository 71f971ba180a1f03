"""The nearest of the names that are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, "" when none is near."""
    near = difflib.get_close_matches(str(word), sorted(map(str, known)), n=1, cutoff=0.8)
    return near[0] if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the nearest known word, or all known words when none is near."""
    known = sorted(map(str, known))  # YAML makes a boolean of a name such as `on`, a number of `5`
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known) or 'none'}."
