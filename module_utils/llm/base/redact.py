"""Texts that may be shown: secrets blanked, length cut."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SECRETS = (
    re.compile(r"\b(hf_)[A-Za-z0-9]{8,}"),
    re.compile(r"\b(sk-)[A-Za-z0-9_-]{8,}"),
    re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{4,}"),
    re.compile(r"(?i)(\bapi[-_]?keys?['\"]?\s*[:=]\s*)(?!\s*None)(?:\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,;}]+)"),
    re.compile(r"(?i)((?:--api-key|--hf-token)[= ])\S+"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace given secrets, and what looks like a key or a token, by ``***``.

    Secrets shorter than 4 characters are ignored: blanking them would shred ordinary words.
    """
    for secret in sorted({item for item in secrets if len(item) >= 4}, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def shorten(text: str, width: int) -> str:
    """Cut a text to ``width`` characters and mark the cut."""
    return text if len(text) <= width else text[: width - 1] + "…"
