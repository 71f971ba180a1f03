"""A parser of tool calls that does not fit its model, on a host of its own with the real engine and a model trained for tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import catalogs
from tests.e2e.demo import Run
from tests.faults.stub.host import KEY, RealHost, differences
from tests.models import make

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SERVICE, MODEL = "micro-qwen", "test-qwen"


def deploy(host: RealHost, **changes: Any) -> Run:
    """Deploy the service with its model, which calls tools."""
    declared, place = catalogs.read("tests/models/inventory/group_vars/all.yml"), make.models()["qwen"]
    model, service = declared["llm_models_custom"][MODEL], declared["llm_services_custom"][SERVICE]
    variables = {
        "llm_host_services": [SERVICE],
        "llm_service_keys": {SERVICE: KEY},
        "llm_models_custom": {MODEL: {**model, "revision": place.name, "sources": [{"path": str(place)}]}},
        "llm_services_custom": {
            SERVICE: {**service, **changes, "args": {**service["args"], **changes.get("args", {})}}
        },
    }
    return host.run("site.yml", "-e", json.dumps(variables))


@pytest.mark.fault(
    27, "a tool parser for other models, which somebody let past its rule: tool calls stay text, rolled back"
)
def test_a_tool_parser_for_other_models_is_rolled_back(real_host: RealHost) -> None:
    real_host.reset()
    deploy(real_host).passed()
    before = real_host.state()
    wrong = {"args": {"tool-call-parser": "pythonic"}, "accept": {"tool-parser-family": "To see what comes of it"}}
    run = deploy(real_host, **wrong).refused()
    run.says(
        'failed at "Ask the engine"', "no tool was called", "`tool-call-parser` in `args` of the service is not the one"
    )
    # The failed release is kept to be looked at; all else is as it was.
    releases = f"services/{SERVICE}/releases/"
    changed = differences(before, real_host.state())
    assert all(n.startswith(releases) and wanted is None for n, (wanted, _) in changed.items()), sorted(changed)
    assert deploy(real_host).passed().changed == 0
