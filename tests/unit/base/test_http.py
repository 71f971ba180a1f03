"""Questions to servers of the host itself, against a small server that answers by path."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.llm.base import http


class Server(BaseHTTPRequestHandler):
    """Echoes what it was sent; two paths answer with what is no HTTP, or not before the client leaves."""

    def answer(self) -> None:
        if self.path == "/noise":
            self.wfile.write(b"SSH-2.0\r\n")
        elif self.path == "/silence":
            self.rfile.read(1)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = {"method": self.command, "body": body.decode(), "key": self.headers.get("Authorization")}
            self.send_response(418)
            self.send_header("X-Kind", "Teapot")
            self.end_headers()
            self.wfile.write(json.dumps(said).encode() + b" \xff")

    do_GET = do_POST = answer  # noqa: N815 - the names are http.server's

    def log_message(self, *_args: object) -> None:
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_answer_is_returned_whatever_its_status(port: int) -> None:
    answer = http.get("127.0.0.1", port, "/", 60)
    assert (answer.status, answer.headers["x-kind"]) == (418, "Teapot")
    assert answer.text == '{"method": "GET", "body": "", "key": null} \N{REPLACEMENT CHARACTER}'


def test_no_more_of_the_body_is_read_than_asked_for(port: int) -> None:
    assert [http.get("127.0.0.1", port, "/", 60, most).text for most in (0, 9)] == ["", '{"method"']


def test_json_is_sent_with_headers(port: int) -> None:
    answer = http.post("127.0.0.1", port, "/", {"a": "ü"}, 60, {"Authorization": "Bearer k"})
    assert json.loads(answer.text[:-2]) == {"method": "POST", "body": '{"a": "\\u00fc"}', "key": "Bearer k"}


def test_what_is_no_answer_is_an_error_that_says_which(port: int) -> None:
    with pytest.raises(OSError, match="BadStatusLine"):
        http.get("127.0.0.1", port, "/noise", 60)
    with pytest.raises(TimeoutError):
        http.get("127.0.0.1", port, "/silence", 0.2)
    with pytest.raises(ConnectionRefusedError):
        http.get("127.0.0.1", 9, "/", 60)
