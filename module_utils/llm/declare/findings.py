"""Findings: one thing that is wrong or worth knowing, and the nearest of the names that are known."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing. `severity`: error (refuses), warn, info. `key`: dotted path of variables."""

    id: str
    severity: str
    key: str
    message: str
    remedy: str
    file: str = ""
    accepted: str = ""  # the declared reason to live with it; `severity` is info then

    def as_dict(self) -> dict[str, str]:
        """JSON shape of plan.json, with `file` and `accepted` only where there is something to say."""
        shown = dataclasses.asdict(self)
        return {k: v for k, v in shown.items() if v or k not in ("file", "accepted")}

    def explained(self) -> str:
        """The finding's message, with the declared reason where it was accepted."""
        return f"{self.message}; accepted: {self.accepted}" if self.accepted else self.message

    def text(self) -> str:
        """The finding in one line for a person: where, what, what to do."""
        place = f"{self.key} ({self.file})" if self.file else self.key
        return _one_line(f"{place}: {self.explained()}." + ("" if self.accepted else f" {self.remedy}"))


def _one_line(text: str) -> str:
    """Text with whatever would break or turn its line (control characters in a name, say) spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


Findings = dict[str, list[Finding]]  # by service; "" holds those of the host as a whole
