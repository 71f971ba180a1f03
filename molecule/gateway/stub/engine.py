"""Stub of an engine: says its name, and streams until a test's word. Usage: engine.py NAME.

GET /health and /v1/models: its name. POST with {"stream": true}: a numbered line every 0.2 seconds, and a last one after a POST
with {"finish": true} or ten minutes; with {"leave": true}, how many streams were left by their clients. POST of anything else: what
of the request arrived, as JSON.
"""

import http.server
import itertools
import json
import sys
import threading
from collections.abc import Iterator

NAME = sys.argv[1]
FINISH = threading.Event()
MOST_LINES = 3000
LEFT: list[str] = []


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
        """Its name."""
        self._say(f"{NAME}\n")

    def do_POST(self) -> None:
        """What its documentation says."""
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = json.loads(text) if text.startswith(b"{") else {}
        if asked.get("finish"):
            FINISH.set()
        if asked.get("stream"):
            self._stream()
        else:
            got = {"name": NAME, "path": self.path, "length": len(text), "left": len(LEFT)}
            self._say(
                json.dumps({**got, "key": self.headers.get("Authorization"), "id": self.headers.get("X-Request-Id")})
            )

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for text in lines():
                self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            LEFT.append(NAME)


http.server.ThreadingHTTPServer(("", 8000), Engine).serve_forever()
