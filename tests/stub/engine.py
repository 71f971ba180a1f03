#!/usr/bin/python3
"""STUB of an engine, for what a real one cannot do at will or a hundred times. It never stands for the engine's answers.

As `vllm serve MODEL [flags]` and as `engine.py chat` it knows one answer and just enough of vLLM's HTTP: GET /health, /metrics,
/v1/models; POST /v1/chat/completions, streamed or not. With `ignore_eos` a stream has `max_tokens` pieces, a hundred a second,
or ends with the next one after SIGUSR1. Keys are in the options file that --config names, or in STUB_KEY. In the folder
STUB_CACHE a file `slow` makes it slow, and a file `damaged` is what it says instead of booting: caches can't be damaged at
will (docs/boots.md).

`engine.py named NAME` says its name to each GET. POST with {"stream": true}: a numbered line every 0.2 seconds, and a last one
after a POST with {"finish": true} or ten minutes; POST of anything else: what of the request arrived, and how many streams
were left by their clients, as JSON.

`engine.py watched [LIFE]` has the metrics of an engine that works, hangs or idles: POST /work, /hang or /rest says which;
LIFE: seconds until it fails. It runs with any Python since 3.9.
"""

import argparse
import http.server
import itertools
import json
import os
import pathlib
import re
import signal
import sys
import threading
from typing import Any, ClassVar

ANSWER = "The capital of France is Paris."
METRICS = ("num_requests_running", "num_requests_waiting", "generation_tokens_total")


class Handler(http.server.BaseHTTPRequestHandler):
    """What all of them need."""

    protocol_version = "HTTP/1.1"

    def say(self, status: int, body: str, kind: str = "application/json") -> None:
        """One answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def metrics(self, *values: int) -> None:
        """METRICS, as an engine tells them."""
        lines = [f'vllm:{name}{{engine="0"}} {value}\n' for name, value in zip(METRICS, values)]  # noqa: B905 - older Pythons
        self.say(200, "".join(lines), "text/plain")

    def begin(self, kind: str = "text/plain") -> None:
        """The head of a stream."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, text: str) -> None:
        """A piece of a stream; "" ends it."""
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def body(self) -> str:
        """What was sent."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Chat(Handler):
    """Answers as vLLM would."""

    model = "stub"
    keys: ClassVar[frozenset[str]] = frozenset()
    cache = ""
    running = 0
    total = 0
    ends = threading.Event()

    def allowed(self) -> bool:
        """Whether the request has a key; else it is refused."""
        allowed = not self.keys or (self.headers.get("Authorization") or "").removeprefix("Bearer ") in self.keys
        if not allowed:
            self.say(401, json.dumps({"error": {"message": "Unauthorized"}}))
        return allowed

    def do_GET(self) -> None:
        """Health, metrics, models."""
        if self.path == "/health":
            self.say(200, "")
        elif self.path == "/metrics":
            self.metrics(Chat.running, 0, Chat.total)
        elif self.path == "/v1/models" and self.allowed():
            entry = {"id": self.model, "object": "model", "max_model_len": 4096}
            self.say(200, json.dumps({"object": "list", "data": [entry]}))
        elif self.path != "/v1/models":
            self.say(404, "{}")

    def do_POST(self) -> None:
        """The answer."""
        asked = json.loads(self.body() or "{}")
        if not self.allowed():
            return
        Chat.running += 1
        try:
            self.answer(asked)
        finally:
            Chat.running -= 1

    def answer(self, asked: dict[str, Any]) -> None:
        """One answer, whole or streamed."""
        words = re.findall(r"\S+ ?", ANSWER)
        if asked.get("ignore_eos"):
            words = [f"{n} " for n in range(int(asked["max_tokens"]))]
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        head: dict[str, Any] = {"id": "stub", "created": 0, "model": self.model, "object": "chat.completion"}
        if not asked.get("stream"):
            Chat.total += len(words)
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.say(200, json.dumps({**head, "choices": [choice], "usage": usage}))
            return
        head["object"] += ".chunk"
        self.begin("text/event-stream")
        for number, word in enumerate(words, 1):
            last = number == len(words) or Chat.ends.is_set()
            reason = None if not last else "length" if asked.get("ignore_eos") else "stop"
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": reason}
            self.chunk(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n")
            Chat.total += 1
            if last:
                break
            Chat.ends.wait(self.pace(bool(asked.get("ignore_eos"))))
        self.chunk(f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def pace(self, long: bool) -> float:
        """Seconds between two tokens. long: of a stream that a test has to find at work."""
        if self.cache:
            return 0.05 if os.path.exists(f"{self.cache}/slow") else 0.002  # noqa: PTH110 - also for old Pythons
        return 0.01 if long else 0.0


class Named(Handler):
    """Says its name, and streams until a test's word."""

    name = ""
    end = threading.Event()
    most = 3000
    left: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Its name."""
        self.say(200, f"{self.name}\n", "text/plain")

    def do_POST(self) -> None:
        """A stream, its end, or what arrived."""
        text = self.body()
        asked = json.loads(text) if text.startswith("{") else {}
        if asked.get("finish"):
            self.end.set()
        if asked.get("stream"):
            self.stream()
            return
        got = {"name": self.name, "path": self.path, "length": len(text), "left": len(self.left)}
        self.say(
            200, json.dumps({**got, "key": self.headers.get("Authorization"), "id": self.headers.get("X-Request-Id")})
        )

    def stream(self) -> None:
        """Numbered lines."""
        self.begin()
        try:
            for number in itertools.count():
                self.chunk(f"{number} {self.name}\n")
                if self.end.wait(0.2) or number >= self.most:
                    break
            self.chunk(f"end {self.name}\n")
            self.chunk("")
        except OSError:
            self.left.append(self.name)


class Watched(Handler):
    """The metrics of an engine that works, hangs or idles."""

    does = "rest"
    tokens = 0

    def do_GET(self) -> None:
        """Metrics, with a token more each time somebody looks while it works."""
        Watched.tokens += Watched.does == "work"
        self.metrics(int(Watched.does != "rest"), 0, Watched.tokens)

    def do_POST(self) -> None:
        """Another state, or an answer."""
        self.body()
        word = self.path.lstrip("/")
        if word in ("work", "hang", "rest"):
            Watched.does = word
        self.say(200, "{}")


class Server(http.server.ThreadingHTTPServer):
    """Room for a gateway that knocks often."""

    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Who knocks and goes, as a gateway's check does, is no error."""


def chat(arguments: list[str]) -> None:
    """Serve until told to stop, and then let streams end, as the engine does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name", default=Chat.model)
    parser.add_argument("--config", default="")
    parser.add_argument("--port", type=int, default=8000)
    options, _ = parser.parse_known_args(arguments)
    Chat.model, Chat.cache = options.served_model_name, os.environ.get("STUB_CACHE", "")
    Chat.keys = frozenset(filter(None, [os.environ.get("STUB_KEY")]))
    if options.config:
        Chat.keys = frozenset(json.loads(pathlib.Path(options.config).read_text(encoding="utf-8"))["api-key"])
    if Chat.cache and pathlib.Path(Chat.cache, "damaged").exists():
        sys.exit(pathlib.Path(Chat.cache, "damaged").read_text(encoding="utf-8"))
    server = Server(("", options.port), Chat)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    signal.signal(signal.SIGUSR1, lambda *_: Chat.ends.set())
    print("(APIServer pid=1) INFO:     Application startup complete.", flush=True)  # as vLLM says it
    server.serve_forever()


def main() -> None:
    """Be what the name or the first argument says."""
    mode, arguments = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if mode == "named":
        Named.name = arguments[0]
        Server(("", 8000), Named).serve_forever()
    elif mode == "watched":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as vLLM ends
        if arguments:
            threading.Timer(float(arguments[0]), os._exit, [3]).start()
        Server(("", 8000), Watched).serve_forever()
    elif mode in ("serve", "chat"):
        chat(arguments)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
