"""One HTTP request and its answer, and what it means when none came. Whoever asks a registry or a hub is passed in.

Servers of the host itself are asked with `get` and `post`: http.client is what a host's own Python has, and it knows no proxy.
"""

from __future__ import annotations

import dataclasses
import http.client
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

    @property
    def text(self) -> str:
        """The body as text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")


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


def get(address: str, port: int, path: str, timeout: float, most: int | None = None) -> Answer:
    """Ask a server of this host or of its container networks. timeout: seconds for every read; most: bytes of the body to read.

    Raises OSError; ConnectionRefusedError and TimeoutError are told apart, and an answer that is no HTTP is one too.
    """
    return _exchange(address, port, "GET", path, None, {}, timeout, most)


def post(
    address: str, port: int, path: str, body: object, timeout: float, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send JSON to a server of this host or of its container networks. timeout, errors: as of `get`."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    return _exchange(address, port, "POST", path, json.dumps(body), sent, timeout, None)


def _exchange(
    address: str,
    port: int,
    method: str,
    path: str,
    body: str | None,
    headers: Mapping[str, str],
    timeout: float,
    most: int | None,
) -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, b"" if most == 0 else answer.read(most))
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from error
    finally:
        connection.close()
