"""The gateway passes on what clients may ask, publishes nothing else, and is confined."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def container(host: Host) -> Any:
    """Docker's inspection of the gateway."""
    return json.loads(host.check_output("docker inspect llm-gateway"))[0]


KEY, OTHER = "sk-of-the-first-service", "sk-of-the-second-service"
CALL = "/v1/chat/completions"


def curl(host: Host, url: str, *arguments: str) -> tuple[int, Any]:
    """(status, answer) of a request on the machine that trusts the gateway's own authority; JSON where it is."""
    words = [
        "curl",
        "--silent",
        "--show-error",
        "--path-as-is",
        "--cacert",
        "/opt/llm/gateway/ca/ca.pem",
        *arguments,
        url,
    ]
    said = host.check_output(" ".join(map(shlex.quote, [*words, "--write-out", "\\n%{http_code} %{http_version}"])))
    text, _, status = said.rpartition("\n")
    return int(status.split()[0]), json.loads(text) if text.startswith("{") else text


def test_requests_reach_the_engine_of_the_service(ask: Ask) -> None:
    assert ask(5011, "/v1/models", KEY) == (200, "llm-first-11111111")
    assert ask(5011, "/health")[0] == 200


def test_a_service_without_a_release_says_so_in_json(ask: Ask) -> None:
    status, text = ask(5012, "/v1/models", OTHER)
    assert (status, json.loads(text)["error"]["code"]) == (503, "service_unavailable")
    assert ask(5012, "/health")[0] == 503


def test_what_engines_offer_beside_stays_inside(ask: Ask) -> None:
    for path in (
        "/metrics",
        "/tokenize",
        "/",
        "//v1/models",
        "/V1/models",
        "/v1/%2e%2e/metrics",
        "/v1%2fmodels",
        "/v1/load",
    ):
        status, text = ask(5011, path, KEY)
        assert status == 404 and json.loads(text)["error"]["code"] == "not_found", path


def test_no_key_and_a_wrong_one_are_turned_away_in_the_dialect_of_the_api(ask: Ask) -> None:
    for key in ("", "sk-nobody-s"):
        status, text = ask(5011, CALL, key, "{}")
        said = json.loads(text)
        assert status == 401 and said["error"]["code"] == "invalid_api_key" and said["request_id"]
        status, text = ask(5011, "/v1/messages", key, "{}")
        said = json.loads(text)
        assert status == 401 and (said["type"], said["error"]["type"]) == ("error", "authentication_error")
    status, text = ask(5011, CALL, OTHER, "{}")
    assert (status, json.loads(text)["error"]["code"]) == (403, "out_of_scope")


def test_one_address_serves_all_by_host_name_prefix_and_model(host: Host) -> None:
    given = ["--header", f"x-api-key: {KEY}", "--header", "Content-Type: application/json", "--data"]
    host.check_output(
        """python3 -c 'import json; print(json.dumps({"messages": ["long " * 100_000], "model": "model-one"}))' > /tmp/body"""
    )
    for url, more in (
        ("https://localhost/first/v1/chat/completions", ["{}"]),
        ("https://api.one.example.org/v1/chat/completions", ["{}", "--resolve", "api.one.example.org:443:127.0.0.1"]),
        ("https://localhost/v1/chat/completions", ["@/tmp/body"]),
    ):
        status, said = curl(host, url, *given, *more)
        assert (status, said["name"], said["path"]) == (200, "llm-first-11111111", CALL), url
        assert said["key"] is None, "the client's key ends at the gateway"
    status, said = curl(host, "https://localhost/v1/chat/completions", *given, '{"model": "nobody-s"}')
    assert (status, said["error"]["code"]) == (404, "model_not_found")
    status, said = curl(host, "https://localhost/v1/chat/completions", *given, "{}")
    assert (status, said["error"]["code"]) == (400, "model_missing")
    status, said = curl(host, "https://localhost/v1/models", *given[:2])
    assert status == 200 and [m["id"] for m in said["data"]] == ["model-one"], "what this key may ask"
    status, said = curl(host, "https://localhost/v1/models", *given[:2], "--header", "Host: elsewhere.example.org")
    assert (status, said["error"]["code"]) == (404, "unknown_host")


def test_it_speaks_http_2_and_sends_plain_requests_to_tls(host: Host) -> None:
    script = "curl --silent --output /dev/null --write-out '%{http_version} %{http_code} %{redirect_url}' "
    assert host.check_output(f"{script} --cacert /opt/llm/gateway/ca/ca.pem https://localhost/health") == "2 200 "
    assert host.check_output(f"{script} http://localhost/v1/models") == "1.1 308 https://localhost/v1/models"


def test_too_much_is_refused_before_an_engine_sees_it(host: Host) -> None:
    host.check_output("head --bytes 2000000 /dev/zero > /tmp/large")
    url, given = "http://127.0.0.1:5011/v1/completions", ["--header", f"Authorization: Bearer {KEY}"]
    status, said = curl(host, url, *given, "--data-binary", "@/tmp/large")
    assert (status, said["error"]["code"]) == (413, "request_too_large")
    status, said = curl(host, url, *given, "--header", "Transfer-Encoding: chunked", "--data-binary", "@/tmp/large")
    assert (status, said["error"]["code"]) == (413, "length_required")
    status, said = curl(host, url, *given, *[w for n in range(200) for w in ("--header", f"X-{n}: 1")], "--data", "{}")
    assert (status, said["error"]["code"]) == (431, "headers_too_large")


def test_the_log_says_who_asked_for_what_and_has_no_key(host: Host) -> None:
    curl(
        host,
        "https://localhost/first/v1/completions",
        "--header",
        f"Authorization: Bearer {KEY}",
        "--data",
        '{"a": "content"}',
    )
    log = host.check_output("docker logs llm-gateway 2>&1")
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    asked = [e for e in entries if e["path"] == "/first/v1/completions"][-1]
    assert (asked["client"], asked["service"], asked["status"], asked["method"]) == ("first", "first", 200, "POST")
    assert asked["total_ms"] >= asked["first_byte_ms"] >= 0 and asked["bytes_out"] > 0 and asked["time"].endswith("Z")
    assert KEY not in log and "content" not in log.replace("content-", "")


def test_the_gateway_alone_publishes_ports_and_on_loopback(host: Host) -> None:
    published = [
        line for line in host.check_output("docker ps --format '{{.Names}} {{.Ports}}'").splitlines() if "->" in line
    ]
    assert [line.split()[0] for line in published] == ["llm-gateway"]
    assert host.socket("tcp://127.0.0.1:5011").is_listening
    assert not host.socket("tcp://0.0.0.0:5011").is_listening


def test_it_is_confined(container: Any) -> None:
    settings = container["HostConfig"]
    assert container["Config"]["User"] == "64001:64001"
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["SecurityOpt"] and settings["Memory"] == 2 * 2**30
    assert set(container["NetworkSettings"]["Networks"]) == {"llm", "llm-front"}


def test_engines_have_no_way_out(host: Host) -> None:
    assert host.check_output("docker network inspect --format '{{.Internal}}' llm llm-front").split() == [
        "true",
        "false",
    ]


def test_what_is_loaded_is_written_down(host: Host, container: Any) -> None:
    loaded = host.file("/opt/llm/gateway/loaded").content_string.split()
    sums = host.check_output(
        "cd /opt/llm/gateway; for f in compose.yml 'etc/haproxy.cfg etc/door.lua' etc/maps/keys.map etc/tls/door.pem; "
        "do cat $f | sha256sum; done"
    ).split()[::2]
    assert loaded == [*sums[:2], container["Id"][:12], *sums[2:]]


def test_what_is_secret_is_readable_by_who_needs_it(host: Host) -> None:
    folder = "/opt/llm/gateway"
    owners = {"etc/maps/keys.map": 64001, "etc/maps/engines.map": 64001, "etc/tls/door.pem": 64001, "ca/ca.key": 0}
    for name, owner in owners.items():
        file = host.file(f"{folder}/{name}")
        assert (file.uid, file.mode) == (owner, 0o400), name
    assert host.file(f"{folder}/ca/ca.pem").mode == 0o644, "clients trust it"


def test_keys_of_clients_change_while_the_same_haproxy_runs(host: Host) -> None:
    def key_work(arguments: str) -> Any:
        return host.ansible("llm_client_key", f"known=first,second {arguments}", check=False)

    def send(key: str, port: int = 5011) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port}/v1/completions"
        status, said = curl(host, url, "--header", f"Authorization: Bearer {key}", "--data", "{}")
        return status, said["error"]["code"] if "error" in said else ""

    before = host.check_output(
        "docker exec llm-gateway cat /proc/1/task/1/children; docker inspect --format {{.Id}} llm-gateway"
    )
    made = key_work("do=create client=alice services=first per_minute=2")
    assert made["applied"] and made["key"] not in host.check_output("cat /opt/llm/gateway/clients.json")
    assert send(made["key"], 5012) == (403, "out_of_scope")
    assert [send(made["key"]) for _ in range(3)] == [(200, ""), (200, ""), (429, "rate_limit_exceeded")]
    other = key_work("do=create client=bob services=*")
    newer = key_work("do=rotate client=bob overlap=1h")
    assert send(other["key"]) == send(newer["key"]) == (200, ""), "old and new overlap"
    newest = key_work("do=rotate client=bob overlap=0h")
    assert send(newer["key"]) == (401, "expired_api_key") and send(newest["key"]) == (200, "")
    key_work("do=revoke client=bob")
    assert send(newest["key"]) == (401, "invalid_api_key")
    key_work("do=revoke client=alice")
    assert before == host.check_output(
        "docker exec llm-gateway cat /proc/1/task/1/children; docker inspect --format {{.Id}} llm-gateway"
    )
    refused = key_work("do=create client=carol services=nobody-s")
    assert "names no service: `nobody-s`" in refused["msg"]
