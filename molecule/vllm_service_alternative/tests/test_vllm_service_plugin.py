"""A file of the operator's own is in the release, and the engine runs with it."""

from __future__ import annotations

import json

from testinfra.host import Host

SERVICE = "/opt/llm/services/micro-cpu"
HEADERS = """address=$(docker inspect --format '{{.NetworkSettings.Networks.llm.IPAddress}}' \
$(docker ps --quiet --filter label=llm.service=micro-cpu))
python3 -c "import urllib.request; print(urllib.request.urlopen('http://$address:8000/health').headers)" """


def test_the_engine_runs_with_the_middleware(host: Host) -> None:
    assert "x-marked-by: mark" in host.check_output(HEADERS)


def test_the_release_has_the_file(host: Host) -> None:
    file = host.file(f"{SERVICE}/current/plugins/mark.py")
    assert (file.user, file.mode) == ("root", 0o644)
    record = json.loads(host.file(f"{SERVICE}/current/release.json").content_string)
    assert "plugins/mark.py" in json.dumps(record)
