"""What the tests of all scenarios share: a failed test shows what the machine's Docker engine wrote."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

ENGINE_LOG = """\
if [ -d /run/systemd/system ]
then journalctl --unit=docker --lines=20 --output=cat --no-pager
else tail --lines=20 /var/log/docker.log
fi"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the engine's log to the report of a test that failed on a machine."""
    report = yield
    host: Any = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None and call.when == "call":
        report.sections.append(("The machine's Docker engine", host.run(ENGINE_LOG).stdout or "(no log)"))
    return report
