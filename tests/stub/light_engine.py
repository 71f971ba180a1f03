"""STUB of an engine for the gateway's own tests and for benchmarks/gateway.py: answers at once, or streams at a pace that is asked.

Usage: light_engine.py NAME [ADDRESS]; it listens on port 8000. GET of /metrics: what vLLM says of tokens and of requests that run;
GET of anything else: 200. POST of JSON with

- `pieces` and `every`: so many server-sent events, `every` seconds apart, the first with the headers;
- `after`: a short answer, {"name": NAME}, after so many seconds; without it at once;
- `dies`: this program's own name: it ends before it answers;
- `hangs`: this program's own name: from then on it answers no POST, until one with `goes_on` comes;
- `now`: what is to be sent later is sent now.

One process and no threads: what it costs is small and even, so that what is measured is the way to it.
"""

import heapq
import json
import os
import select
import socket
import sys
import time
from typing import Any

EVENT = '{"id":"stub","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}'
PIECE = f"{len(EVENT) + 8:x}\r\ndata: {EVENT}\n\n\r\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def request(buffer: bytearray) -> dict[str, Any] | None:
    """The next whole request of a connection, taken out of what has arrived; None while there is none."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    lines = bytes(buffer[:head]).lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    if len(buffer) < head + 4 + length:
        return None
    body = bytes(buffer[head + 4 : head + 4 + length])
    del buffer[: head + 4 + length]
    asked: dict[str, Any] = json.loads(body or b"{}")
    return {"metrics": True} if lines[0].startswith(b"get /metrics ") else asked


def send(connection: socket.socket, data: bytes) -> bool:
    """Send all of it, also where there is no room for it at once. Returns whether there is still somebody to get it."""
    left = memoryview(data)
    try:
        while left:
            try:
                left = left[connection.send(left) :]
            except BlockingIOError:
                select.select([], [connection], [])
    except OSError:
        return False
    return True


class Engine:
    """Connections, and what is to be sent when."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        text = json.dumps({"name": name})
        self.short = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.server = socket.create_server((address, 8000), family=family, backlog=4096)
        self.server.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.server, select.EPOLLIN)
        self.connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self.tokens, self.hanging = 0, list[tuple[dict[str, Any], int, socket.socket]]()
        self.hangs = False
        # When, a number that decides between equals, events left, seconds between them, and where to.
        self.due: list[tuple[float, int, int, float, socket.socket]] = []

    def serve(self) -> None:
        """Serve for ever."""
        while True:
            pause = max(self.due[0][0] - time.monotonic(), 0) if self.due else -1
            for number, _ in self.poll.poll(pause):
                if number == self.server.fileno():
                    self.accept()
                else:
                    self.read(number)
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self.go_on(*heapq.heappop(self.due))

    def accept(self) -> None:
        """Take all who knock."""
        while True:
            try:
                new, _ = self.server.accept()
            except BlockingIOError:
                return
            new.setblocking(False)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[new.fileno()] = (new, bytearray())
            self.poll.register(new, select.EPOLLIN)

    def read(self, number: int) -> None:
        """Take what came, and begin to answer what is whole."""
        connection, buffer = self.connections[number]
        try:
            data = connection.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hanging = [h for h in self.hanging if h[1] != number]
            self.poll.unregister(number)
            del self.connections[number]
            connection.close()
            return
        buffer += data
        while (asked := request(buffer)) is not None:
            if asked.get("dies") == self.name:
                os._exit(1)
            if asked.get("hangs") == self.name:
                self.hangs = True
            if "now" in asked:
                # In an order, and so a heap, and none at the same time as another.
                self.due = [(n / 1e9, *what) for n, (_, *what) in enumerate(self.due)]  # type: ignore[misc]
            if "goes_on" in asked:
                self.hangs = False
                for held in self.hanging:
                    self.answer(*held)
                self.hanging = []
            if self.hangs and not asked.get("metrics") and asked:
                self.hanging.append((asked, number, connection))
            else:
                self.answer(asked, number, connection)

    def answer(self, asked: dict[str, Any], number: int, connection: socket.socket) -> None:
        """Begin to answer a request."""
        when = time.monotonic()
        if asked.get("metrics"):
            self.tokens += bool(self.due)  # whatever is under way makes some
            running = len(self.due) + len(self.hanging)
            text = f"vllm:iteration_tokens_total_count {self.tokens}.0\nvllm:num_requests_running {running}.0\n"
            send(connection, f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        elif "pieces" in asked:
            send(connection, HEAD + PIECE)
            left = (when + asked["every"], number, asked["pieces"] - 1, asked["every"], connection)
            heapq.heappush(self.due, left)
        elif "after" in asked:
            heapq.heappush(self.due, (when + asked["after"], number, -1, 0, connection))
        else:
            send(connection, self.short)

    def go_on(self, when: float, number: int, left: int, every: float, connection: socket.socket) -> None:
        """Send what is due; -1 events left stands for a short answer."""
        data = self.short if left < 0 else PIECE if left else END
        self.tokens += 1
        if send(connection, data) and left > 0:
            heapq.heappush(self.due, (when + every, number, left - 1, every, connection))


Engine(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "").serve()
