"""Images from every kind of source but a build; builds are in vllm_image_alternative."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture
def records(host: Host) -> dict[str, Any]:
    """What the role wrote down."""
    found: dict[str, Any] = json.loads(host.file("/opt/llm/state/images.json").content_string)
    return found


def image_id(host: Host, ref: str) -> str:
    return str(host.check_output(f"docker image inspect --format '{{{{.Id}}}}' {ref}"))


def test_the_second_registry_delivers_when_the_first_is_down(host: Host, records: dict[str, Any]) -> None:
    """The image has the name that is declared first, whichever place it came from."""
    ref = "127.0.0.1:5001/plain/engine:1"
    assert records[ref]["source"] == "pull"
    assert records[ref]["names"] == ["127.0.0.1:5000/plain/engine:1"]
    assert image_id(host, ref) == records[ref]["id"] == image_id(host, "127.0.0.1:5000/plain/engine:1")


@pytest.mark.parametrize(("name", "source"), [("haproxy", "archive"), ("bootstrapped", "bootstrap")])
def test_the_image_has_its_own_name(host: Host, records: dict[str, Any], name: str, source: str) -> None:
    refs = host.check_output(f"docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' llm/{name}").split()
    assert len(refs) == 1
    record = records[refs[0]]
    assert (record["source"], record["id"]) == (source, image_id(host, refs[0]))
    assert host.check_output(f"docker run --rm --network none {refs[0]} cat /etc/debian_version").startswith("12.")


def test_nothing_else_is_left(host: Host, records: dict[str, Any]) -> None:
    listed = host.check_output("docker image ls --format '{{.Repository}}:{{.Tag}}'").split()
    assert set(listed) == {*records, *(n for r in records.values() for n in r["names"])}
    assert not host.check_output("ls -A /opt/llm/images")
