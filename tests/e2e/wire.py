"""HTTP as attackers write it: HTTP/1 byte by byte, HTTP/2 frame by frame. Client libraries refuse to send most of this."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Headers = Sequence[tuple[str, str]]
LINGER = 2  # seconds for the end of a connection on which nothing more is asked
NONE = 0  # status of an answer that did not come: the connection, or the stream, was ended


@dataclass(frozen=True)
class Sent:
    """A request of HTTP/1, as it goes out."""

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    version: str = "HTTP/1.1"
    hosts: Sequence[str] = ("127.0.0.1:5010",)
    framing: Headers | None = None  # of the body; None for the right one
    alone: bool = False  # on a connection of its own, which is read to its end: one more request may be hidden in it

    def raw(self, key: Headers) -> bytes:
        """All of it, with the headers that carry a key."""
        framing = [("Content-Length", str(len(self.body)))] if self.framing is None else self.framing
        lines = [f"{self.method} {self.target} {self.version}".rstrip()]
        lines += [f"Host: {host}" for host in self.hosts]
        lines += [f"{name}: {value}" for name, value in (*self.headers, *key, *framing)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass
class Http1:
    """A connection that is opened again whenever the other side ends it."""

    address: tuple[str, int]
    patience: float = 20  # seconds for an answer
    pending: bytes = b""
    connection: socket.socket | None = None

    def ask(self, request: Sent, key: Headers = ()) -> tuple[int, bytes]:
        """(status, body) of the answer; (NONE, b"") without one."""
        if request.alone:
            self.close()
        used = self.connection is not None
        if self.connection is None:
            self.connection, self.pending = socket.create_connection(self.address, timeout=self.patience), b""
        answer = None
        with contextlib.suppress(OSError):  # who is refused may still be sending
            self.connection.sendall(request.raw(key))
        with contextlib.suppress(OSError):
            answer = self._answer(request.method == "HEAD")
        if request.alone and self.connection:
            self.connection.settimeout(LINGER)
            with contextlib.suppress(OSError):
                while self._more():
                    pass
        if answer is None or request.alone:
            self.close()
        if answer is None and used:  # it may have ended before, unnoticed
            return self.ask(request, key)
        return answer or (NONE, b"")

    def close(self) -> None:
        """Forget the connection."""
        if self.connection:
            self.connection.close()
        self.connection = None

    def _answer(self, headless: bool) -> tuple[int, bytes] | None:
        while b"\r\n\r\n" not in self.pending:
            if not self._more():
                return None
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
        length = 0 if headless else int(fields.get("content-length", -1))
        while len(self.pending) < length or length < 0:
            if not self._more():
                break
        body, self.pending = (self.pending[:length], self.pending[length:]) if length >= 0 else (self.pending, b"")
        if fields.get("connection", "") == "close" or length < 0:
            self.close()
        return int(lines[0].split()[1]), body

    def _more(self) -> bool:
        piece = self.connection.recv(65536) if self.connection else b""
        self.pending += piece
        return bool(piece)


# ---------------------------------------------------------------------------------------------------------------------
# HTTP/2 (RFC 9113), as much as is needed to be rude.

DATA, HEADERS, RESET, SETTINGS, GOAWAY, WINDOW = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INDEXED = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}  # RFC 7541, appendix A


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(text: str) -> bytes:
    """A text of a header block, without Huffman."""
    value, found = text.encode("latin-1"), b""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    length -= 127
    while length >= 128:
        found += bytes([length % 128 + 128])
        length //= 128
    return b"\x7f" + found + bytes([length]) + value


def _block(headers: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers)


def _status(block: bytes) -> int:
    """Status of an answer's header block, which HAProxy writes first and without Huffman."""
    if block[0] in INDEXED:
        return INDEXED[block[0]]
    assert block[:2] == b"\x48\x03", block[:16]  # 0x48: a literal with the name of entry 8, :status
    return int(block[2:5])


@dataclass
class Http2:
    """A connection of HTTP/2 that is opened again whenever the other side ends it; over TLS where an authority is given."""

    address: tuple[str, int]
    authority: Path | None = None  # that signed the certificate
    context: ssl.SSLContext | None = None
    connection: socket.socket | None = None
    stream: int = field(default=1)
    pending: bytes = b""

    def ask(self, headers: Headers, body: bytes = b"") -> int:
        """Status of the answer; NONE when the stream or the connection is ended instead."""
        used = self.connection is not None
        try:
            connection = self.connection or self._open()
            self.stream += 2
            sent = _frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), self.stream, _block(headers))
            connection.sendall(sent + (_frame(DATA, END_STREAM, self.stream, body) if body else b""))
            return self._answer()
        except OSError:
            self.close()
            # What came before may have been the reason.
            return self.ask(headers, body) if used else NONE

    def close(self) -> None:
        """Forget the connection."""
        if self.connection:
            with contextlib.suppress(OSError):
                self.connection.close()
        self.connection = None

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=60)
        if self.authority:
            if self.context is None:
                self.context = ssl.create_default_context(cafile=str(self.authority))
                self.context.set_alpn_protocols(["h2"])
            secure = self.context.wrap_socket(connection, server_hostname="localhost")
            assert secure.selected_alpn_protocol() == "h2"
            connection = secure
        self.connection = connection
        self.stream, self.pending = -1, b""
        # Room for all answers of the connection at once.
        room = _frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0) + room)
        return connection

    def _answer(self) -> int:
        status = NONE
        while True:
            kind, flags, stream, payload = self._read()
            assert self.connection
            if kind == SETTINGS and not flags & ACK:
                self.connection.sendall(_frame(SETTINGS, ACK, 0))
            elif kind == GOAWAY:
                raise ConnectionError
            elif stream == self.stream and kind in (HEADERS, DATA, RESET):
                status = _status(payload) if kind == HEADERS and status == NONE else status
                if kind == RESET or flags & END_STREAM:
                    return status

    def _read(self) -> tuple[int, int, int, bytes]:
        assert self.connection
        while len(self.pending) < 9 or len(self.pending) < 9 + int.from_bytes(self.pending[:3], "big"):
            piece = self.connection.recv(65536)
            if not piece:
                raise ConnectionError
            self.pending += piece
        end = 9 + int.from_bytes(self.pending[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.pending[3:9])
        payload, self.pending = self.pending[9:end], self.pending[end:]
        return kind, flags, stream & 0x7FFFFFFF, payload
