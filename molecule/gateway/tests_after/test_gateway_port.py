"""A further port needs another gateway, and that one serves all of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from testinfra.host import Host

Ask = Callable[..., tuple[int, str]]


def test_the_further_port_reaches_its_engine(ask: Ask) -> None:
    assert ask(5013, "/v1/models", "sk-of-the-third-service") == (200, "llm-third-33333333")


def test_another_container_publishes_all_ports(host: Host) -> None:
    container = json.loads(host.check_output("docker inspect llm-gateway"))[0]
    assert container["Id"] != host.check_output("cat /root/gateway").split()[0]
    published = {port: bound[0]["HostIp"] for port, bound in container["HostConfig"]["PortBindings"].items()}
    assert published == {
        "5011/tcp": "127.0.0.1",
        "5012/tcp": "127.0.0.1",
        "5013/tcp": "127.0.0.1",
        "443/tcp": "127.0.0.1",
        "80/tcp": "127.0.0.1",
    }
