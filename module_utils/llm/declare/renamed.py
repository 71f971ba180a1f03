"""Names that inventories used once, and what they are called now.

A name that is no longer known is refused; one of this table is refused with its successor. `old` and `new` are written as in
docs/reference/names.txt: `llm_hub_token`, `docker_engine_min_version`, `llm_services.*.limits.shm_size`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import NamedTuple


class Renamed(NamedTuple):
    """One renamed name. `new`: "" for one that was removed. `since`: version. `note`: a sentence on what else is to be done."""

    old: str
    new: str
    since: str
    note: str = ""


RENAMED: tuple[Renamed, ...] = ()


def successor(name: str, table: Iterable[Renamed] | None = None) -> tuple[str, str]:
    """(What happened to a name, what to write instead) if it was renamed or removed; else ("", "").

    name: as findings write it, with names and positions where the table has `*` (`llm_services.chat.limits.shm`).
    """
    for entry in RENAMED if table is None else table:
        if fnmatch.fnmatchcase(name, entry.old):
            parent, _, last = entry.new.rpartition(".")
            new = last if parent == entry.old.rpartition(".")[0] else entry.new
            message = f"was {'renamed' if new else 'removed'} in version {entry.since}"
            return message, " ".join(part for part in (f"Write `{new}`." if new else "", entry.note) if part)
    return "", ""
