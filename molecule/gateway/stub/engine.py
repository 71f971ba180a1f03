"""Stub of an engine: says its name, and streams until a test's word. Usage: engine.py NAME.

GET /health; GET /v1/models: its name; GET /v1/stream: a numbered line every 0.2 seconds, and a last one after POST /v1/finish or
ten minutes; GET anything else, which is to stay inside: its name.
"""

import http.server
import itertools
import sys
import threading
from collections.abc import Iterator

NAME = sys.argv[1]
FINISH = threading.Event()
MOST_LINES = 3000


def lines() -> Iterator[str]:
    """The stream."""
    for number in itertools.count():
        yield f"{number} {NAME}\n"
        if FINISH.wait(0.2) or number >= MOST_LINES:
            break
    yield f"end {NAME}\n"


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers GET and POST."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Its name, or the stream."""
        self.send_response(200)
        if self.path != "/v1/stream":
            body = f"{NAME}\n".encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in lines():
            self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        """Let the streams end."""
        FINISH.set()
        self.send_response(204)
        self.end_headers()


http.server.ThreadingHTTPServer(("", 8000), Engine).serve_forever()
