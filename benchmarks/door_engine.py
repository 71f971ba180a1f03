"""STUB of an engine for door.py: answers at once, and streams at the pace that a request asks for. Usage: door_engine.py PORT.

GET of anything: 200. POST: `pieces` server-sent events, `every` seconds apart, the first with the headers; without `pieces` one
short answer. One process and no threads: what it costs is small and even, so that what is measured is the way to it.
"""

import heapq
import json
import select
import socket
import sys
import time

EVENT = json.dumps({"id": "stub", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}}]})
PIECE = f"{len(EVENT) + 8:x}\r\ndata: {EVENT}\n\n\r\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
END = b"0\r\n\r\n"


def request(buffer: bytearray) -> dict[str, float] | None:
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
    asked = json.loads(body[: body.index(b"}") + 1]) if body else {}  # what follows stands for a long prompt
    return {"pieces": asked.get("pieces", 0), "every": asked.get("every", 0)}


def send(connection: socket.socket, data: bytes) -> bool:
    """Whether there is still somebody to get it."""
    try:
        connection.send(data)
    except OSError:
        return False
    return True


def main() -> None:
    """Serve for ever."""
    server = socket.create_server(("", int(sys.argv[1])), backlog=4096)
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, bytearray]] = {}
    due: list[tuple[float, int, int, float, socket.socket]] = []  # when, which, pieces left, seconds between them
    while True:
        pause = max(due[0][0] - time.monotonic(), 0) if due else -1
        for number, _ in poll.poll(pause):
            if number == server.fileno():
                while True:
                    try:
                        new, _ = server.accept()
                    except BlockingIOError:
                        break
                    new.setblocking(False)
                    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections[new.fileno()] = (new, bytearray())
                    poll.register(new, select.EPOLLIN)
                continue
            connection, buffer = connections[number]
            try:
                data = connection.recv(262144)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                poll.unregister(number)
                del connections[number]
                connection.close()
                continue
            buffer += data
            while asked := request(buffer):
                if not asked["pieces"]:
                    send(connection, ANSWER)
                    continue
                send(connection, HEAD + PIECE)
                heapq.heappush(due, (time.monotonic() + asked["every"], number, int(asked["pieces"]) - 1, asked["every"], connection))
        now = time.monotonic()
        while due and due[0][0] <= now:
            when, number, left, every, connection = heapq.heappop(due)
            if send(connection, PIECE if left else END) and left:
                heapq.heappush(due, (when + every, number, left - 1, every, connection))


main()
