"""The Docker client, and what is done with containers: against a stub daemon (a small server at a unix socket)."""

import json
import socketserver
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.docker import containers


def frame(stream: int, text: str) -> bytes:
    data = text.encode()
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("stamp", "nanoseconds"),
    [
        ("2026-11-23T06:38:10.52390519Z", 1795415890523905190),
        ("2026-11-23T06:38:10Z", 1795415890000000000),
        ("2026-11-23T06:38:10.123456789Z", 1795415890123456789),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
        ("warning:", 0),
    ],
)
def test_parse_time(stamp: str, nanoseconds: int) -> None:
    assert docker_api.parse_time(stamp) == nanoseconds


def test_parse_logs_frames() -> None:
    content = (
        frame(1, "2026-11-23T06:38:10.000000001Z first\n")
        + frame(2, "2026-11-23T06:38:10.000000002Z one\rtwo\r\n")
        + frame(1, "2026-11-23T06:38:10.000000003Z \n")
        + frame(1, "no time\n")
    )
    lines = docker_api.parse_logs(content)
    assert [(line.stream, line.text) for line in lines] == [
        ("stdout", "first"),
        ("stderr", "one"),
        ("stderr", "two"),
        ("stdout", ""),
    ]
    assert lines[0].at % 10 == 1
    assert lines[0].seconds == pytest.approx(1795415890)


def test_parse_logs_tty_and_cut() -> None:
    assert [line.text for line in docker_api.parse_logs(b"2026-11-23T06:38:10Z a b\r\n")] == ["a b"]
    assert docker_api.parse_logs(b"") == []
    assert docker_api.parse_logs(frame(1, "2026-11-23T06:38:10Z ok\n") + b"\1\0\0")[0].text == "ok"


def networks(**addresses: str) -> dict[str, Any]:
    return {"NetworkSettings": {"Networks": {name: {"IPAddress": ip} for name, ip in addresses.items()}}}


@pytest.mark.parametrize(
    ("inspected", "network", "ip"),
    [
        (networks(llm="172.18.0.2"), "llm", "172.18.0.2"),
        (networks(llm="172.18.0.2"), None, "172.18.0.2"),
        (networks(llm="172.18.0.2", bridge="172.17.0.2"), None, ""),
        (networks(llm="172.18.0.2"), "other", ""),
        (networks(llm=""), "llm", ""),
        ({"HostConfig": {"NetworkMode": "host"}, **networks(host="")}, None, "127.0.0.1"),
        ({"NetworkSettings": {"Networks": None}}, "llm", ""),
        ({}, None, ""),
    ],
)
def test_container_ip(inspected: dict[str, Any], network: str | None, ip: str) -> None:
    assert docker_api.container_ip(inspected, network) == ip


class StubDaemon(BaseHTTPRequestHandler):
    """Stands in for the daemon: answers by path, so that every kind of answer can be listed."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, bytes]] = []  # noqa: RUF012 - one list for all requests of a test
    log = b""
    events = b""
    container: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        StubDaemon.seen.append((self.command, self.path, self.rfile.read(length)))
        path = self.path.partition("?")[0]
        status, content = {
            "/version": (200, b'{"Version": "20.10"}'),
            "/containers/gone/json": (404, b'{"message": "No such container: gone"}'),
            "/conflict": (409, b'{"message": "in use"}'),
            "/broken": (500, b"not json"),
            "/empty": (204, b""),
            "/stream": (200, b'{"status": "a"}\n{"status": "b"}\n'),
            "/containers/json": (200, b"[]"),
            "/containers/web/logs": (200, StubDaemon.log),
            "/events": (200, StubDaemon.events),
            "/containers/web/exec": (201, b'{"Id": "e1"}'),
            "/exec/e1/start": (200, StubDaemon.log),
            "/exec/e1/json": (200, b'{"Running": false, "ExitCode": 3}'),
            "/containers/web/json": (200, json.dumps(StubDaemon.container).encode()),
            "/containers/web/stop": (204, b""),
            "/containers/web/kill": (204, b""),
            "/containers/web": (204, b""),
            "/containers/gone": (404, b'{"message": "No such container: gone"}'),
        }[path]
        self.send_response(status)
        if status == 204:
            self.end_headers()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (content[:5], content[5:]):
            if part:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names are http.server's

    def log_message(self, *_args: Any) -> None:
        return


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, StubDaemon) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        StubDaemon.seen = []
        yield path
        server.shutdown()


@pytest.mark.usefixtures("daemon")
def test_get_post_delete() -> None:
    assert docker_api.get("/version") == {"Version": "20.10"}
    assert docker_api.post("/empty", {"Name": "x"}) is None
    assert docker_api.delete("/empty") is None
    assert docker_api.post("/stream") == [{"status": "a"}, {"status": "b"}]
    assert StubDaemon.seen[1] == ("POST", "/empty", b'{"Name": "x"}')


@pytest.mark.usefixtures("daemon")
def test_a_command_in_a_container() -> None:
    StubDaemon.log = b"\1\0\0\0\0\0\0\4one\n" + b"\2\0\0\0\0\0\0\4two\n"
    assert docker_api.execute("web", ["ls", "-l"]) == (3, "one\ntwo\n")
    assert json.loads(StubDaemon.seen[0][2])["Cmd"] == ["ls", "-l"]


@pytest.mark.usefixtures("daemon")
def test_list_by_label() -> None:
    assert docker_api.containers({"llm.service": "micro", "llm.release": None}) == []
    path = StubDaemon.seen[0][1]
    assert path.startswith("/containers/json?all=true&filters=")
    assert "llm.service%3Dmicro" in path


@pytest.mark.usefixtures("daemon")
def test_errors_of_the_daemon() -> None:
    with pytest.raises(docker_api.NotFound, match="No such container: gone") as missing:
        docker_api.inspect("gone")
    assert missing.value.status == 404
    with pytest.raises(docker_api.DockerError, match="Docker refused POST /conflict: in use"):
        docker_api.post("/conflict")
    with pytest.raises(docker_api.DockerError, match="not json"):
        docker_api.get("/broken")


def test_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(docker_api.DockerUnreachable, match=r"there is no such socket\. Install and start"):
        docker_api.get("/version")
    (tmp_path / "file.sock").touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/file.sock")
    with pytest.raises(docker_api.DockerUnreachable, match="nobody listens"):
        docker_api.get("/version")


def test_a_daemon_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "slow.sock")

    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.recv(65536)

    with socketserver.ThreadingUnixStreamServer(path, Silent) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with pytest.raises(docker_api.DockerUnreachable, match="no answer in time"):
            docker_api.request("GET", "/version", timeout=0.2)
        server.shutdown()


@pytest.mark.usefixtures("daemon")
def test_log_reader_gives_each_line_once() -> None:
    def line(second: int, text: str) -> bytes:
        return frame(1, f"2026-11-23T06:38:{second:02d}.5Z {text}\n")

    reader = docker_api.LogReader("web", since=5)
    StubDaemon.log = line(10, "a") + line(12, "c")
    assert [entry.text for entry in reader.read()] == ["a", "c"]
    assert "since=0.000000005" in StubDaemon.seen[-1][1]
    # "b" was written by the other stream and became visible late; "a" is no longer asked for.
    StubDaemon.log = line(12, "b") + line(12, "c") + line(13, "d")
    assert [entry.text for entry in reader.read()] == ["b", "d"]
    assert "since=1795415891.500000000" in StubDaemon.seen[-1][1]
    StubDaemon.log = b""
    assert reader.read() == []


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (b"", (None, False)),
        (b'{"Action": "die", "Actor": {"Attributes": {"exitCode": "2"}}}\n', (2, False)),
        (b'{"Action": "oom"}\n{"Action": "die", "Actor": {"Attributes": {"exitCode": "137"}}}\n', (137, True)),
    ],
)
def test_exits(events: bytes, expected: tuple[int | None, bool]) -> None:
    StubDaemon.events = events
    assert docker_api.exits("web", 1, 2_000_000_003) == expected
    assert "until=2.000000003" in StubDaemon.seen[-1][1]


def asked() -> list[tuple[str, str]]:
    """Method and path of all requests."""
    return [(method, path) for method, path, _ in StubDaemon.seen]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("state", "up"),
    [
        ({"Running": True}, True),
        ({"Running": True, "Paused": True}, True),
        ({"Running": False, "Restarting": True}, True),
        ({"Running": False, "Restarting": False}, False),
    ],
)
def test_only_a_container_that_is_up_is_stopped(state: dict[str, bool], up: bool) -> None:
    StubDaemon.container = {"Id": "1", "State": state, "Config": {}}
    assert containers.inspected("web") == StubDaemon.container
    assert containers.running("web") == (StubDaemon.container if up else None)
    StubDaemon.seen = []
    assert containers.stop("web") is up
    stops = [request for request in asked() if request[0] == "POST"]
    assert stops == ([("POST", "/containers/web/stop?t=10")] if up else [])


@pytest.mark.usefixtures("daemon")
def test_a_container_gets_the_grace_period_that_it_names() -> None:
    StubDaemon.container = {"State": {"Running": True}, "Config": {"StopTimeout": 3}}
    containers.stop("web")
    assert asked()[-1] == ("POST", "/containers/web/stop?t=3")


@pytest.mark.usefixtures("daemon")
def test_a_container_is_removed_once_and_signals_reach_it() -> None:
    assert containers.remove("web")
    containers.signal("web", "USR1")
    assert asked() == [("DELETE", "/containers/web?force=1"), ("POST", "/containers/web/kill?signal=USR1")]


@pytest.mark.usefixtures("daemon")
def test_a_container_that_is_not_there_is_none_and_no_error() -> None:
    assert containers.inspected("gone") is None and containers.running("gone") is None
    assert not containers.is_up(None) and not containers.stop("gone") and not containers.remove("gone")


class Commands:
    """Runs nothing, and answers the same to every command."""

    def __init__(self, *answer: Any) -> None:
        self.ran: list[Sequence[str]] = []
        self.answer = answer

    def __call__(self, args: Sequence[str], **_: Any) -> tuple[int, str, str]:
        self.ran.append(args)
        rc, out, err = self.answer
        return rc, out, err


def test_compose_neither_builds_nor_pulls_and_its_reason_is_told() -> None:
    documents = [Path("/a/compose.yml"), Path("/a/image.yml")]
    works, fails = Commands(0, "", "done"), Commands(17, "", "no such image\n")
    assert containers.compose_up(works, "llm-a", documents) == ""
    assert containers.compose_up(fails, "llm-a", documents[:1], recreate=False) == "no such image"
    assert containers.compose_up(Commands(1, "", ""), "llm-a", documents) == "Compose ended with 1"
    project = "docker compose --project-name llm-a --file /a/compose.yml"
    assert works.ran == [f"{project} --file /a/image.yml up --detach --no-build --pull never --force-recreate".split()]
    assert fails.ran == [f"{project} up --detach --no-build --pull never".split()]


def test_last_words_are_the_end_of_both_streams() -> None:
    log = Commands(0, "one\n", "two\n")
    assert containers.last_words(log, "web") == "Its last words: one\ntwo\n"
    assert log.ran == ["docker logs --tail 20 web".split()]


def test_socket_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert docker_api.socket_path() == "/var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
    assert docker_api.socket_path() == "/var/run/docker.sock"


def test_query_values_that_are_no_strings() -> None:
    path, _mark, query = docker_api._with_query("/x", {"a": {"b": [1]}, "all": True, "name": "n"}).partition("?")
    assert path == "/x"
    assert parse_qs(query) == {"a": ['{"b": [1]}'], "all": ["true"], "name": ["n"]}
