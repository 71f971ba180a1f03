"""A proxy that passes requests on and notes what clients sent and got.

It changes nothing but the address, with one exception: asked to `insist` on a tool, it adds to the first request that offers this
tool that it has to be called. The engine then writes a call by its grammar, also with a model that would not have thought of it.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROPPED = ("host", "connection", "accept-encoding", "transfer-encoding", "content-length")


@dataclass
class Asked:
    """One request, and how it was answered. `arrived`: sizes of the pieces of the answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int = 0
    content_type: str = ""
    answer: bytes = b""
    pieces: int = 0

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def streamed(self) -> bool:
        return self.content_type.startswith("text/event-stream")


@dataclass
class Recorder:
    """Listens on loopback and passes on to host and port; `asked` is what came so far. `insist`: the end of a tool's name."""

    host: str
    port: int
    insist: str = ""
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                recorder._pass_on(self)

            do_GET = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None:
                return

            def handle(self) -> None:
                # Clients go when they have what they want.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _insisted(self, body: Any, path: str) -> bytes:
        """The body with a call of the tool demanded, in the words of its API; empty when that is not to be."""
        if not self.insist or not isinstance(body, dict):
            return b""
        body = copy.deepcopy(body)
        tools = [tool.get("function") or tool for tool in body.get("tools") or []]
        tool = next((tool for tool in tools if str(tool.get("name")).endswith(self.insist)), None)
        if tool is None:
            return b""
        name = tool["name"]
        tool["strict"] = True  # else the engine holds a call to JSON, and not to the tool's schema
        self.insist = ""
        demands = {
            "/v1/messages": {"type": "tool", "name": name},
            "/v1/responses": {"type": "function", "name": name},
            "/v1/chat/completions": {"type": "function", "function": {"name": name}},
        }
        return json.dumps({**body, "tool_choice": demands[path.partition("?")[0]]}).encode()

    def _pass_on(self, client: BaseHTTPRequestHandler) -> None:
        body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in client.headers.items()}
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = body
        asked = Asked(client.command, client.path, headers, parsed)
        self.asked.append(asked)
        body = self._insisted(parsed, client.path) or body
        kept = {n: v for n, v in headers.items() if n not in DROPPED}
        engine = http.client.HTTPConnection(self.host, self.port, timeout=900)
        engine.request(client.command, client.path, body or None, kept)
        answer = engine.getresponse()
        asked.status, asked.content_type = answer.status, answer.getheader("Content-Type", "")
        client.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                client.send_header(name, value)
        client.send_header("Connection", "close")
        client.close_connection = True
        client.end_headers()
        while piece := answer.read1(65536):
            asked.pieces += 1
            asked.answer += piece
            client.wfile.write(piece)
            client.wfile.flush()
        engine.close()
