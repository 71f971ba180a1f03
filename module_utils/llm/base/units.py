"""Units of what is counted."""

from __future__ import annotations

GIB = 2**30
