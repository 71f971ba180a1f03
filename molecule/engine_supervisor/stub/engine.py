"""Stub of an engine: the metrics of one that works, hangs or idles, on a test's word. Usage: engine.py [LIFE].

LIFE: seconds until it fails. Told to end, it ends with 0 as vLLM does.
GET /metrics. POST /work: a request in flight, with a token each time somebody looks. POST /hang: one without any token.
POST /rest: none. POST anything else, such as a short generation: 200.
"""

import http.server
import os
import signal
import sys
import threading

METRICS = """vllm:num_requests_running{{engine="0"}} {running}
vllm:num_requests_waiting{{engine="0"}} 0.0
vllm:generation_tokens_total{{engine="0"}} {tokens}
"""
TOKENS = {"seen": 0}
STATE = {"does": "rest"}


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers GET and POST."""

    protocol_version = "HTTP/1.1"

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        """Metrics."""
        TOKENS["seen"] += STATE["does"] == "work"
        self._say(METRICS.format(running=int(STATE["does"] != "rest"), tokens=TOKENS["seen"]))

    def do_POST(self) -> None:
        """Another state, or an answer."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        word = self.path.lstrip("/")
        if word in ("work", "hang", "rest"):
            STATE["does"] = word
        self._say("{}")


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if len(sys.argv) > 1:
    threading.Timer(float(sys.argv[1]), os._exit, [3]).start()
http.server.ThreadingHTTPServer(("", 8000), Engine).serve_forever()
