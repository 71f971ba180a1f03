"""What the tests of all scenarios share: asking a machine, and what its Docker engine wrote when a test failed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from testinfra.host import Host

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


REQUEST = """python3 - <<'EOF'
import urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(urllib.request.Request({url!r}, {body!r}, {headers!r}), timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode(), end="")
EOF"""


@pytest.fixture
def ask(host: Host) -> Callable[..., tuple[int, str]]:
    """Sends a request on the machine to a port of its loopback address: (port, path, key, body) to (status, body)."""

    def send(port: int, path: str, key: str = "", body: str = "") -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        url = f"http://127.0.0.1:{port}{path}"
        said = host.check_output(REQUEST.format(url=url, body=body.encode() or None, headers=headers))
        status, _, text = said.partition("\n")
        return int(status), text

    return send
