"""Requests with images, as both SDKs send them. The engine's CPU build loads no vision model, so two things are shown apart:

the real gateway and engine get such a request whole (and the engine says that its model takes no images), and a stub that is
named as one looks at the image itself.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.demo import ENDPOINT, MODEL, WORD, Machine

pytestmark = pytest.mark.e2e

COLOURS = {"red": (220, 20, 30), "green": (10, 200, 40)}
QUESTION = "What colour is this?"


def picture(colour: tuple[int, int, int], side: int = 64, noise: int = 0) -> bytes:
    """A PNG of one colour; noise: bytes of a comment that nothing compresses, to make it large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * side) * side
    filler = [chunk(b"tEXt", b"noise\0" + b"x" * noise)] if noise else []
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), *filler]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def pixel(png: bytes) -> tuple[int, ...]:
    """The first pixel of such a PNG."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(struct.pack(">I", zlib.crc32(b"IEND"))), "not whole"
    length = struct.unpack(">I", png[(place := png.index(b"IDAT")) - 4 : place])[0]
    return tuple(zlib.decompress(png[place + 4 : place + 4 + length])[1:4])


class StubOfAVisionEngine(BaseHTTPRequestHandler):
    """Stands in for an engine with a vision model: says the name of the colour that it finds in the request's image."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (block,) = (b for b in request["messages"][0]["content"] if b["type"] in ("image_url", "image"))
        if block["type"] == "image_url":
            kind, _, data = block["image_url"]["url"].partition(";base64,")
            assert kind == "data:image/png"
        else:
            assert block["source"]["media_type"] == "image/png"
            data = block["source"]["data"]
        found = pixel(base64.b64decode(data, validate=True))
        text = next((name for name, colour in COLOURS.items() if colour == found), "another")
        if self.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": text}
            answer: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        else:
            assert self.path == "/v1/messages"
            usage = {"input_tokens": 1, "output_tokens": 1}
            content = [{"type": "text", "text": text}]
            answer = {
                "type": "message",
                "role": "assistant",
                "content": content,
                "stop_reason": "end_turn",
                "usage": usage,
            }
        body = json.dumps({"id": "1", "model": request["model"], **answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """Address of the stub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StubOfAVisionEngine)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def by_openai(base: str, key: str, model: str, png: bytes) -> str:
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=60)
    content: Any = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]
    done = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], max_tokens=8)
    return done.choices[0].message.content or ""


def by_anthropic(base: str, key: str, model: str, png: bytes) -> str:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png).decode()}
    client = anthropic.Anthropic(base_url=base, auth_token=key, max_retries=0, timeout=60)
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    done: Any = client.messages.create(model=model, messages=[{"role": "user", "content": content}], max_tokens=8)
    return str(done.content[0].text)


SDKS = {"openai": by_openai, "anthropic": by_anthropic}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("colour", COLOURS)
def test_an_image_arrives_whole(stub: str, sdk: str, colour: str) -> None:
    assert SDKS[sdk](stub, "sk-of-the-stub", "stub", picture(COLOURS[colour], noise=3_000_000)) == colour


@pytest.mark.parametrize("sdk", SDKS)
def test_the_gateway_passes_on_an_image_and_the_engine_says_what_its_model_takes(machine: Machine, sdk: str) -> None:
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
        SDKS[sdk](ENDPOINT.removesuffix("/v1"), machine.key, MODEL, picture(COLOURS["red"], noise=3_000_000))
    assert "multimodal" in str(refused.value) or "image" in str(refused.value)
    assert WORD in machine.answer()
