"""Lines of an engine's log: their prefix, and which of them are worth reading."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible.module_utils.llm.base.redact import redact, shorten

_PROCESS = re.compile(r"^\([^()]*\bpid=\d+\)\s?")
_LEVEL = re.compile(
    r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):?\s+(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[^\]]+\] ?)?"
)
_NOISE = re.compile(
    r"^\s*$"
    r"|\d+%.*\d+/\d+ \["  # a progress bar
    r"|^\s+\[-{1,2}\w|^usage: |^\s+\[\w+\]$"  # argparse
    r"|^Route: |^[\d.]+:\d+ - \""  # the API server's routes and requests
    r"|^  File \"|^ {4,}|^Traceback \(most recent|^[\s^~]+$"  # the frames of a traceback
)


def strip_prefix(line: str) -> tuple[str, str]:
    """Split a log line into its level and its text, without process, time and source file.

    >>> strip_prefix("(EngineCore pid=24) INFO 11-23 06:30:08 [core.py:402] init engine took 4.49 s")
    ('INFO', 'init engine took 4.49 s')

    The level is "" for a line that states none (a traceback, a progress bar).
    """
    text = _PROCESS.sub("", line.rstrip())
    found = _LEVEL.match(text)
    if not found:
        return "", text
    return found["level"], text[found.end() :]


def tail(lines: Iterable[str], limit: int = 20, width: int = 400) -> list[str]:
    """Return the last lines worth reading, secrets blanked and length cut.

    Left out are blank lines, progress bars, usage text, requests, and the frames of tracebacks (their last line stays).
    """
    kept = [line.rstrip() for line in lines if not _NOISE.search(strip_prefix(line)[1])]
    return [shorten(redact(line), width) for line in kept[-limit:]]
