"""Tables of plain text, at most WIDTH columns wide or one line a row. Pure functions.

A row has cells of one line; what takes more (reasons, what a run would do) is wrapped below it.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH = 112  # Ansible indents a message by 8
BAR = 20


class Row(NamedTuple):
    """One line of cells, and texts below it."""

    cells: Sequence[str]
    below: Sequence[str] = ()


def render(head: Sequence[str], rows: Sequence[Row], width: int = WIDTH, right: Iterable[str] = ()) -> list[str]:
    """Lines of a table. The first column gives way when the others need the room: its text gets a line of its own.

    right: columns of numbers, which end at the right.
    """
    numeric = {head.index(r) for r in right}
    rest = [max(len(line[c]) for line in (head, *(r.cells for r in rows))) for c in range(1, len(head))]
    room = max(len(head[0]), 12, width - sum(rest) - 2 * len(rest))
    first = min(room, max(len(line[0]) for line in (head, *(r.cells for r in rows))))
    widths = [first, *rest]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    lines = [line(head)]
    for row in rows:
        if len(row.cells[0]) > first:
            lines += [row.cells[0], line(["", *row.cells[1:]])]
        else:
            lines.append(line(row.cells))
        for text in row.below:
            lines += wrapped(text, width)
    return lines


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table that is as wide as its cells need: one line a row."""
    return render(head, [Row(cells) for cells in rows], sys.maxsize)


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """A text in lines that are indented, the second and later ones a little more."""
    plain = " ".join(text.split())
    return textwrap.wrap(plain, width, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)


def numbers(values: Iterable[int | str]) -> str:
    """Numbers of GPUs in a few characters: `0 1`, `0-7`."""
    known = sorted({v for v in values if isinstance(v, int)})
    runs: list[list[int]] = []
    for value in known:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words = [f"{r[0]}-{r[-1]}" if len(r) > 2 else " ".join(str(v) for v in r) for r in runs]
    return " ".join([*words, *sorted({str(v)[:12] for v in values if not isinstance(v, int)})]) or "-"


def bar(parts: Sequence[tuple[str, float]], total: float) -> str:
    """`[##++==....]`: parts of a total, drawn one after the other; each ends where the sum of all before it ends."""
    drawn, sum_ = "", 0.0
    for mark, size in parts:
        sum_ += max(0.0, size)
        end = min(BAR, round(sum_ / total * BAR)) if total > 0 else 0
        drawn += mark * (end - len(drawn))
    return f"[{drawn:.<{BAR}}]"
