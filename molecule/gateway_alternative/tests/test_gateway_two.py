"""A service that has no release yet says so; the other one serves."""

from __future__ import annotations

import json
from collections.abc import Callable

Ask = Callable[..., tuple[int, str]]


def test_a_service_without_a_release_says_so_in_json(ask: Ask) -> None:
    status, text = ask(5012, "/v1/models")
    assert (status, json.loads(text)["error"]["type"]) == (503, "service_unavailable")
