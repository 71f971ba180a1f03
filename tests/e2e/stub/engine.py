"""A stub of an engine, named as one: it knows one answer, and is slow while there is a file `slow` in its cache.

With a file `damaged` there it does not boot, and says what is in that file.

It stands for an engine whose caches are damaged, which can't be made at will: see docs/boots.md.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CACHE, KEY = os.environ["STUB_CACHE"], os.environ["STUB_KEY"]
WORDS = "The capital of France is Paris .".split()


class Engine(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.allowed():
            self.reply(200, {"object": "list", "data": [{"id": "stub", "object": "model", "max_model_len": 4096}]})
        elif self.path == "/health":
            self.reply(200, {})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        words = (WORDS * 10)[: request["max_tokens"]] if request.get("ignore_eos") else WORDS
        usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
        if not request.get("stream"):
            message = {"role": "assistant", "content": " ".join(words)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self.reply(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in words:
            time.sleep(0.05 if os.path.exists(f"{CACHE}/slow") else 0.002)  # noqa: PTH110 - also for old Pythons
            self.event({"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self.reply(401, {"error": {"message": "Unauthorized"}})
        return False

    def event(self, content: dict[str, Any]) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", **content}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    if os.path.exists(f"{CACHE}/damaged"):  # noqa: PTH110 - as above
        with open(f"{CACHE}/damaged", encoding="utf-8") as said:  # noqa: PTH123 - as above
            raise SystemExit(said.read())
    ThreadingHTTPServer(("", 8000), Engine).serve_forever()
