"""Stub of an engine: says its name, and streams at a test's word. Usage: engine.py NAME.

GET /health; GET /v1/models: its name; GET /v1/stream: one line at once, one more after POST /v1/end; GET /metrics: what must
stay inside.
"""

import http.server
import sys
import threading

NAME = sys.argv[1]
END = threading.Event()


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers GET and POST."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Its name, or a stream that waits in the middle."""
        self.send_response(200)
        if self.path != "/v1/stream":
            body = f"{NAME}\n".encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in (f"begin {NAME}\n", f"end {NAME}\n"):
            if text.startswith("end"):
                END.wait()
            self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        """Let the streams end."""
        END.set()
        self.send_response(204)
        self.end_headers()


http.server.ThreadingHTTPServer(("", 8000), Engine).serve_forever()
