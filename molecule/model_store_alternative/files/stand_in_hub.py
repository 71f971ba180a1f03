#!/usr/bin/python3
"""Stand-in for a model hub, with real files of a folder for each branch. Not the real one, which cannot be had in tests.

Usage: stand_in_hub.py PORT [[datasets/]OWNER/NAME@]BRANCH=FOLDER...      (acme/tiny without a name)

It speaks what huggingface_hub asks for: a revision's commit and files, and each file with ranges, commit and checksum. Weights
(.safetensors) are in its large file storage: listed with their SHA-256, and sent from another host name, under an address that
is signed. A repository whose name begins with `gated` wants the token hf_good.

It can be told to fail: POST /stand-in with JSON, of which each key replaces what was told before.
  cut: bytes of files after which every connection that sends one is cut, until told otherwise; null for no limit
  slow: bytes a second for each file; null for no limit
  wrong: names of files of which the last byte is another one
  away: true to close every connection without an answer
  xet: address of a storage for huggingface_hub's fast transfer (hf_xet), which the weights are then said to be in; null for none
GET /stand-in says what happened since: {"sent": {file: bytes}, "ranges": {file: [first byte of a request]}, "tokens": [path that
got one], "xet": how often a token for that storage was asked for}.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "acme/tiny"
TOKEN = "hf_good"
PIECE = 2**16


def commit(branch: str) -> str:
    """Commit that a branch points at: 40 hex digits, always the same."""
    return hashlib.sha1(branch.encode()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Answers for the repositories it was given; any other is not found."""

    protocol_version = "HTTP/1.1"
    port = 0
    branches: dict[tuple[str, str], Path] = {}  # noqa: RUF012 - these three are the server's own state
    told: dict[str, Any] = {}  # noqa: RUF012
    seen: dict[str, Any] = {}  # noqa: RUF012
    sums: dict[tuple[str, int], dict[str, str]] = {}  # noqa: RUF012

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Take orders."""
        self.told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.seen.update(sent={}, ranges={}, tokens=[], xet=0)
        self.answer(b"{}", {})

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0].strip("/")
        if path == "stand-in":
            self.answer(json.dumps(self.seen).encode(), {"Content-Type": "application/json"})
            return
        if self.told.get("away"):
            self.close_connection = True
            return
        if path == "xet-token":
            self.seen["xet"] += 1
            until = str(int(time.time()) + 3600)
            self.answer(
                b"{}",
                {
                    "X-Xet-Cas-Url": self.told["xet"],
                    "X-Xet-Access-Token": "of-the-storage",
                    "X-Xet-Token-Expiration": until,
                },
            )
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token:
            self.seen["tokens"].append(path)
        for (repo, branch), folder in self.branches.items():
            listed = f"api/{repo}" if repo.startswith("datasets/") else f"api/models/{repo}"
            owner = path.replace(listed, repo, 1).removeprefix("storage/")
            if not owner.startswith(f"{repo}/"):
                continue
            if repo.rpartition("/")[2].startswith("gated") and token != TOKEN and not path.startswith("storage/"):
                self.refuse(403 if token else 401, "GatedRepo")
                return
            for name in (branch, commit(branch)):
                if path == f"{listed}/revision/{name}":
                    self.listing(repo, branch, folder)
                    return
                for place in ("", "storage/"):
                    prefix = f"{place}{repo}/resolve/{name}/"
                    if path.startswith(prefix) and (folder / path[len(prefix) :]).is_file():
                        self.file(folder / path[len(prefix) :], path, branch, stored=bool(place))
                        return
        asked = path.removeprefix("api/").removeprefix("models/")
        known = any(asked.startswith(f"{repo}/") for repo, _ in self.branches)
        self.refuse(404, "RevisionNotFound" if known else "RepoNotFound")

    def listing(self, repo: str, branch: str, folder: Path) -> None:
        """The commit and the files of a branch."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
            found = self.sum(path)
            entry = {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size, "blobId": found["blob"]}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"sha256": found["sha256"], "size": path.stat().st_size, "pointerSize": 130}
            files.append(entry)
        body = {"id": repo, "modelId": repo, "sha": commit(branch), "private": False, "siblings": files, "tags": []}
        self.answer(json.dumps(body).encode(), {"Content-Type": "application/json"})

    def sum(self, path: Path) -> dict[str, str]:
        """Both names of a file's content; they are asked for often."""
        key = (str(path), path.stat().st_mtime_ns)
        if key not in self.sums:
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.sums[key] = {"sha256": hashlib.sha256(content).hexdigest(), "blob": blob}
        return self.sums[key]

    def file(self, path: Path, asked: str, branch: str, *, stored: bool) -> None:
        """One file, or a range of it; weights from the storage."""
        found = self.sum(path)
        headers = {"X-Repo-Commit": commit(branch), "ETag": f'"{found["blob"]}"', "Accept-Ranges": "bytes"}
        size, start, status = path.stat().st_size, 0, 200
        end = size
        if path.suffix == ".safetensors" and not stored:
            headers |= {"X-Linked-Etag": f'"{found["sha256"]}"', "X-Linked-Size": str(size)}
            headers["Location"] = f"http://localhost:{self.port}/storage/{asked}?Signature=secret-of-the-storage"
            if self.told.get("xet"):
                route = f"http://localhost:{self.port}/xet-token"
                headers |= {"X-Xet-Hash": found["sha256"], "X-Xet-Refresh-Route": route}
            self.answer(b"", headers, 302)
            return
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            end = int(last) + 1 if last else size
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if self.command == "GET":
            self.seen["ranges"].setdefault(path.name, []).append(start)
        self.send_response(status)
        for name, value in {"Content-Length": str(end - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.body(path, start, end)

    def body(self, path: Path, start: int, end: int) -> None:
        """Send the bytes, as told: cut, slow, wrong."""
        sent, wrong = self.seen["sent"], path.name in (self.told.get("wrong") or ())
        with path.open("rb") as stream:
            stream.seek(start)
            while piece := stream.read(min(PIECE, end - stream.tell())):
                cut = self.told.get("cut")
                if cut is not None:
                    piece = piece[: max(cut - sum(sent.values()), 0)]
                    if not piece:
                        self.close_connection = True
                        return
                if wrong and stream.tell() == path.stat().st_size:
                    piece = piece[:-1] + bytes([piece[-1] ^ 255])
                self.wfile.write(piece)
                sent[path.name] = sent.get(path.name, 0) + len(piece)
                if slow := self.told.get("slow"):
                    time.sleep(len(piece) / slow)

    def refuse(self, status: int, code: str) -> None:
        """An error as the hub says it."""
        self.answer(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        """Send a short answer whole, or only its length."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: what happened can be asked for."""


def serve(port: int, folders: dict[str, str | Path]) -> ThreadingHTTPServer:
    """A server on the loopback address for {"[owner/name@]branch": folder}; port 0 chooses one. Not running yet."""
    branches = {}
    for named, folder in folders.items():
        repo, _, branch = named.rpartition("@")
        branches[(repo or REPOSITORY, branch)] = Path(folder)
    state = {"branches": branches, "told": {}, "seen": {"sent": {}, "ranges": {}, "tokens": [], "xet": 0}, "sums": {}}
    handler = type("OneHub", (Hub,), state)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    handler.port = server.server_address[1]  # type: ignore[attr-defined]
    return server


def main() -> None:
    """Serve until stopped."""
    serve(int(sys.argv[1]), {n: f for n, _, f in (pair.partition("=") for pair in sys.argv[2:])}).serve_forever()


if __name__ == "__main__":
    main()
