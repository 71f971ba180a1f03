"""Files of text that a model is calibrated and measured with: what is wrong with one, as far as its beginning shows."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path

HEAD = 2**20  # bytes of a file that are looked at


def look(path: Path) -> str:
    """What is wrong with a file; "" when nothing is to be seen."""
    try:
        with path.open("rb") as stream:
            return problem(path.name, stream.read(HEAD), path.stat().st_size)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def problem(name: str, start: bytes, total: int) -> str:
    """What is wrong with a file of text, from its first bytes; "" when nothing is to be seen. total: its size in bytes."""
    suffix = name.rpartition(".")[2].lower()
    if suffix not in ("txt", "md", "jsonl", "parquet"):
        return "is no .txt, .md, .jsonl or .parquet file"
    if not total or not start.strip():
        return "is empty"
    if suffix == "parquet":
        return "" if start.startswith(b"PAR1") else "is no Parquet file: it does not begin with PAR1"
    try:
        # The decoder holds back a character that is cut off at the end, and accepts it only of a part of the file.
        said = codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) == total)
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    if "\0" in said:
        return "is not text: it has zero bytes"
    if suffix == "jsonl":
        try:
            row = json.loads(said.splitlines()[0])
        except ValueError:
            return "" if "\n" not in said and len(start) != total else "has a first line that is no JSON"
        if not isinstance(row, Mapping) or not ({"text", "messages"} & set(row)):
            return "has neither `text` nor `messages` in its first line"
    return ""
