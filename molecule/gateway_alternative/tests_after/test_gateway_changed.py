"""Other routes without another gateway: new requests take them, and a stream that was running goes on to its end."""

from __future__ import annotations

from collections.abc import Callable

from testinfra.host import Host

Ask = Callable[..., tuple[int, str]]

FINISH = """pid=$(systemctl show --property MainPID --value client)
address=$(docker inspect --format '{{.NetworkSettings.Networks.llm.IPAddress}}' llm-first-11111111)
python3 -c "import urllib.request; urllib.request.urlopen('http://$address:8000/v1/completions', b'{\\"finish\\": true}', 10)"
timeout 20 tail --pid="$pid" --sleep-interval=0.1 --follow /dev/null"""


def test_the_gateway_was_told_and_not_replaced(host: Host) -> None:
    now = host.check_output("docker inspect --format '{{.Id}} {{.State.StartedAt}}' llm-gateway")
    assert now == host.check_output("cat /root/gateway")


def test_new_requests_take_the_new_routes(ask: Ask) -> None:
    assert ask(5011, "/v1/models", "sk-of-the-first-service") == (200, "llm-first-22222222")
    assert ask(5012, "/v1/models", "sk-of-the-second-service") == (200, "llm-second-33333333")


def test_the_stream_that_was_running_comes_whole_to_its_end(host: Host) -> None:
    assert host.service("client").is_running
    assert "end" not in host.file("/root/stream").content_string
    host.check_output(FINISH)
    *numbered, last = host.file("/root/stream").content_string.splitlines()
    assert numbered == [f"{number} llm-first-11111111" for number in range(len(numbered))]
    assert last == "end llm-first-11111111"
