"""Clients of gateway.py: many streams of one process, without threads. Usage: gateway_client.py JSON.

JSON: address, port, tls, path, key, model, streams, pieces, every, warm and seconds. Each stream sends its next request as soon as
the one before has ended. Prints {first, pieces}: microseconds until the first byte of each body that was asked for after `warm`
seconds, and events that came after that. An answer that is no 200 ends it.
"""

import json
import random
import select
import socket
import ssl
import sys
import time
from typing import Any


class Stream:
    """A connection that is kept, and the request that is under way on it."""

    def __init__(self, asked: dict[str, Any], context: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection((asked["address"], asked["port"]), timeout=30)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.text, self.begun, self.sent = b"", 0.0, 0.0
        self.head = b""


def body(asked: dict[str, Any]) -> bytes:
    """A request, with its head. Lengths differ, so that streams don't keep in step."""
    text: dict[str, Any] = {"model": asked["model"]}
    if pieces := asked["pieces"]:
        pieces = random.randint(max(pieces * 3 // 4, 1), pieces * 5 // 4)  # noqa: S311 - no secret
        text |= {"pieces": pieces, "every": asked["every"]}
    sent = json.dumps(text).encode()
    head: str = f"POST {asked['path']} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {asked['key']}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent


def main() -> None:
    """Ask, and print what was measured."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    context = ssl.create_default_context() if asked["tls"] else None
    if context:  # the certificate was made a moment ago, and nobody else is there
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    streams: dict[int, Stream] = {}
    poll = select.epoll()
    clock = time.perf_counter
    begin = clock()
    measured, end = begin + asked["warm"], begin + asked["warm"] + asked["seconds"]
    first: list[int] = []
    pieces = 0
    asked_for, last = asked["streams"], b"0\r\n\r\n" if asked["pieces"] else b"}"

    def ask(stream: Stream) -> None:
        text, stream.head, stream.begun = body(asked), b"", 0.0
        stream.sent = clock()
        stream.socket.setblocking(True)
        stream.socket.sendall(text)
        stream.socket.setblocking(False)

    while (now := clock()) < end:
        # Not all at once: spread over two thirds of the time that does not count.
        while len(streams) < asked_for and now - begin >= len(streams) * asked["warm"] / asked_for / 1.5:
            new = Stream(asked, context)
            streams[new.socket.fileno()] = new
            poll.register(new.socket, select.EPOLLIN)
            ask(new)
        for number, _ in poll.poll(0.002 if len(streams) < asked_for else 0.1):
            stream = streams[number]
            while True:
                try:
                    data = stream.socket.recv(65536)
                except (BlockingIOError, ssl.SSLWantReadError):
                    break
                if not data:
                    sys.exit(f"the connection was closed after {stream.head!r}")
                seen = clock()
                if not stream.begun:
                    stream.head += data
                    head, _, text = stream.head.partition(b"\r\n\r\n")
                    if not text:
                        continue
                    stream.begun = seen
                    if not head.startswith(b"HTTP/1.1 200 "):
                        sys.exit(f"refused: {stream.head.decode()}")
                    if stream.sent >= measured:
                        first.append(int((seen - stream.sent) * 1e6))
                if seen >= measured:
                    pieces += data.count(b"data:")
                if data.endswith(last):
                    ask(stream)
                if not context:
                    break
    print(json.dumps({"first": first, "pieces": pieces}))


main()
