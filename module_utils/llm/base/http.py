"""One HTTP request and its answer, and what it means when none came. Whoever sends it is passed in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

LARGEST = 4 * 2**20  # bytes; registries take no manifest that is larger
LATER = "Run it again later"
_NETWORK = "Check the network, the proxy (https_proxy) and llm_ca_bundle, and run it again"


class Unresolved(Exception):
    """A tag or branch that could not be resolved: what is wrong, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


class Unreachable(Unresolved):
    """Nobody answered; the message says why."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"{host} cannot be reached: {why}", _NETWORK)


@dataclasses.dataclass(frozen=True)
class Request:
    """One HTTP request. most: bytes of the answer's body that are read."""

    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    most: int = LARGEST


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to a Request, whatever the status. Names of headers are in lower case; repeated ones are joined with commas."""

    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""


Ask = Callable[[Request], Answer]


def trouble(who: str, status: int) -> Unresolved:
    """What an answer means that does not say what was asked for (a status such as 500). who: the server that sent it."""
    if status == 429:
        return Unresolved(f"{who} limits requests, and this address has sent too many (429)", LATER)
    return Unresolved(f"{who} answers with status {status}", LATER)


def json_of(answer: Answer) -> dict[str, Any]:
    """The mapping in an answer's body, {} where there is none."""
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {}
