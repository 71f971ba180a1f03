"""A stub that stands in for an engine where every wrong answer has to be listed; the real one is asked in tests/e2e."""

import contextlib
import json
import select
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

KEY = "k-right-key-of-the-stub"


class StubEngine(BaseHTTPRequestHandler):
    """Answers like an OpenAI API; ``faults`` names what it does wrong."""

    faults: frozenset[str] = frozenset()
    prompts: list[int] = []  # noqa: RUF012 - one list for all requests of a test
    context = 300
    overhead = 20

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(503 if "sick" in self.faults else 200, {})
        elif self.path == "/v1/models" and self.allowed():
            model: dict[str, Any] = {"id": "other" if "other_model" in self.faults else "stub", "object": "model"}
            if "no_context" not in self.faults:
                model["max_model_len"] = self.context
            self.reply(200, {"object": "list", "data": [model]})
        elif not self.path.startswith("/v1/"):
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompts = self.prompts  # of this test: a slow answer may outlive it
        if not self.path.startswith("/v1/"):
            self.reply(404, {"detail": "Not Found"})
            return
        if not self.allowed():
            return
        if "slow" in self.faults:
            self.await_end()
            return
        if "broken" in self.faults:
            self.reply(500, {"error": {"message": f"internal, key {KEY}"}})
            return
        if self.path == "/v1/completions":  # an engine without log-probabilities of a prompt
            self.reply(404, {"error": {"message": "Not Found"}})
            return
        words = len(request["messages"][-1]["content"].split())
        tokens = self.overhead + (1 if "odd_usage" in self.faults else 2 * words)
        prompts.append(tokens)
        if "tires" in self.faults and tokens > 100:
            self.await_end()
            return
        if "trickles" in self.faults or ("trickles_later" in self.faults and len(prompts) > 4):
            self.trickle()
            return
        if tokens + request["max_tokens"] > self.context:
            self.reply(400, {"error": {"message": "maximum context length exceeded"}})
            return
        text = "It is Rome." if "wrong" in self.faults else "" if "empty" in self.faults else "It is Paris."
        usage = {"prompt_tokens": tokens, "completion_tokens": 4, "total_tokens": tokens + 4}
        if request.get("stream"):
            self.stream(text, usage)
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            self.reply(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    def allowed(self) -> bool:
        if "open" in self.faults or self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self.reply(403 if "forbids" in self.faults else 401, {"error": {"message": "Unauthorized"}})
        return False

    def trickle(self) -> None:
        """Send a blank now and then until the client leaves: JSON and events may begin with any number of them."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(10**9))
        self.end_headers()
        while not self.left(0.3):
            self.wfile.write(b" ")

    def await_end(self) -> None:
        """Answer nothing until the client leaves."""
        while not self.left(None):
            pass

    def left(self, seconds: float | None) -> bool:
        """Whether the client leaves within so many seconds: then there is nothing more to read. None: whenever it does."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        return bool(readable) and not self.connection.recv(1)

    def stream(self, text: str, usage: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = [text] if "one_piece" in self.faults else [text[:3], text[3:6], text[6:]]
        if "lossy" in self.faults:
            del pieces[1]
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces
        ]
        if "cut" not in self.faults:
            chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if "no_usage" not in self.faults:
            chunks.insert(0 if "early_usage" in self.faults else len(chunks), {"choices": [], "usage": usage})
        for chunk in chunks:
            event = {"id": "1", "object": "chat.completion.chunk", **chunk}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            while "drip" in self.faults and not self.left(0.3):  # the same piece again and again
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def handle(self) -> None:
        # A client that gives up in the middle is what some tests are about.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            super().handle()

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        return


@contextlib.contextmanager
def serving(stub: type[StubEngine]) -> Iterator[dict[str, Any]]:
    """A stub that serves, and module arguments for it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), stub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield {"service": "micro", "base_url": base_url, "api_key": KEY, "ask": {"model": "stub", "timeout": 60}}
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def stub_engines() -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a function that starts one stub more, with faults of its own, and returns module arguments for it, with this `ask`."""
    with contextlib.ExitStack() as stubs:

        def start(*faults: str, **ask: Any) -> dict[str, Any]:
            own = {"faults": frozenset(faults), "prompts": []}
            arguments = stubs.enter_context(serving(type("OwnStub", (StubEngine,), own)))
            return {**arguments, "ask": {**arguments["ask"], **ask}}

        yield start


@pytest.fixture
def stub_engine() -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a function that starts the stub with faults and returns module arguments for it, with this `ask`.

    Their limit is never reached. Tests in which it has to be say 2 s: a hundred times what the stub's answers take, so
    that these are in time on a busy machine as well.
    """
    with serving(StubEngine) as arguments:
        StubEngine.prompts = []

        def start(*faults: str, **ask: Any) -> dict[str, Any]:
            StubEngine.faults = frozenset(faults)
            return {**arguments, "ask": {**arguments["ask"], **ask}}

        yield start


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give a function that starts the stub behind TLS, with a certificate of its own making, and returns its address."""
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=stub"]
    subprocess.run(["openssl", *made, "-out", "pem", "-keyout", "key"], cwd=tmp_path, capture_output=True, check=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), StubEngine)
    # Each connection shakes hands in its own thread: a client that turns away there must not end the server's loop.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield lambda: f"https://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def stub_prompts() -> list[int]:
    """Give the prompt tokens of every request that the stub took."""
    return StubEngine.prompts
