#!/usr/bin/python3
"""STUB of an engine, called as `vllm serve MODEL [flags]`: knows one answer, and just enough of vLLM's HTTP.

GET /health, /metrics, /v1/models; POST /v1/chat/completions, streamed or not. With `ignore_eos` a stream has `max_tokens` pieces,
a hundred a second, or ends with the next one after SIGUSR1. Its keys are in the
options file that --config names.
"""

import argparse
import http.server
import json
import pathlib
import re
import signal
import sys
import threading
from typing import Any

ANSWER = "The capital of France is Paris."


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers as vLLM would."""

    protocol_version = "HTTP/1.1"
    model = ""
    keys: frozenset[str] = frozenset()
    running = 0
    total = 0
    told_to_end = threading.Event()

    def _send(self, status: int, body: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def _allowed(self) -> bool:
        allowed = not self.keys or (self.headers.get("Authorization") or "").removeprefix("Bearer ") in self.keys
        if not allowed:
            self._send(401, json.dumps({"error": "Unauthorized"}))
        return allowed

    def do_GET(self) -> None:
        """Health, metrics, models."""
        if self.path == "/health":
            self._send(200, "")
        elif self.path == "/metrics":
            values = {"num_requests_running": Engine.running, "num_requests_waiting": 0}
            values["generation_tokens_total"] = Engine.total
            lines = [f'vllm:{name}{{model_name="{self.model}"}} {value}\n' for name, value in values.items()]
            self._send(200, "".join(lines), "text/plain")
        elif self.path == "/v1/models" and self._allowed():
            self._send(200, json.dumps({"object": "list", "data": [{"id": self.model, "object": "model"}]}))
        elif self.path != "/v1/models":
            self._send(404, "{}")

    def do_POST(self) -> None:
        """The answer."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if not self._allowed():
            return
        Engine.running += 1
        try:
            self._answer(asked)
        finally:
            Engine.running -= 1

    def _answer(self, asked: dict[str, Any]) -> None:
        words = re.findall(r"\S+ ?", ANSWER)
        if asked.get("ignore_eos"):
            words = [f"{n} " for n in range(int(asked["max_tokens"]))]
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        told: dict[str, Any] = {"id": "stub", "created": 0, "model": self.model, "object": "chat.completion"}
        if not asked.get("stream"):
            Engine.total += len(words)
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(200, json.dumps({**told, "choices": [choice], "usage": usage}))
            return
        told["object"] += ".chunk"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(words, 1):
            last = number == len(words) or Engine.told_to_end.is_set()
            reason = None if not last else "length" if asked.get("ignore_eos") else "stop"
            self._event({**told, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": reason}]})
            Engine.total += 1
            if last:
                break
            if asked.get("ignore_eos"):
                Engine.told_to_end.wait(0.01)
        self._event({**told, "choices": [], "usage": usage})
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Room for a gateway that knocks often."""

    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Who knocks and goes, as a gateway's check does, is no error."""


def main() -> None:
    """Serve until told to stop, and then let streams end, as the engine does."""
    parser = argparse.ArgumentParser()
    for flag in ("--served-model-name", "--config"):
        parser.add_argument(flag, default="")
    parser.add_argument("--port", type=int, default=8000)
    options, _ = parser.parse_known_args(sys.argv[1:])
    Engine.model = options.served_model_name
    if options.config:
        Engine.keys = frozenset(json.loads(pathlib.Path(options.config).read_text(encoding="utf-8"))["api-key"])
    server = Server(("", options.port), Engine)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    signal.signal(signal.SIGUSR1, lambda *_: Engine.told_to_end.set())
    print("(APIServer pid=1) INFO:     Application startup complete.", flush=True)  # as vLLM says it
    server.serve_forever()


main()
