"""Stand-in for a model hub: repository acme/tiny, one branch for each folder given. Not the real one, which cannot be had in tests.

Usage: stand_in_hub.py PORT BRANCH=FOLDER...

It speaks what huggingface_hub asks for a snapshot: the revision's files, and each file with its commit and checksum.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = "acme/tiny"


def commit(branch: str) -> str:
    """Commit that a branch points at: 40 hex digits, always the same."""
    return hashlib.sha1(branch.encode()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Answers for one repository; any other is not found."""

    branches: dict[str, Path] = {}  # noqa: RUF012 - set once, before the server starts

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0].strip("/")
        by_revision = {name: (commit(b), f) for b, f in self.branches.items() for name in (b, commit(b))}
        for name, (sha, folder) in by_revision.items():
            if path == f"api/models/{REPOSITORY}/revision/{name}":
                listed = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
                body = {
                    "id": REPOSITORY,
                    "modelId": REPOSITORY,
                    "sha": sha,
                    "private": False,
                    "siblings": listed,
                    "tags": [],
                }
                self.answer(json.dumps(body).encode(), {"Content-Type": "application/json"})
                return
            if path.startswith(f"api/models/{REPOSITORY}/tree/{name}"):
                tree = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": sha}
                    for p in sorted(folder.iterdir())
                ]
                self.answer(json.dumps(tree).encode(), {"Content-Type": "application/json"})
                return
            prefix = f"{REPOSITORY}/resolve/{name}/"
            if path.startswith(prefix) and (folder / path[len(prefix) :]).is_file():
                content = (folder / path[len(prefix) :]).read_bytes()
                self.answer(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": sha})
                return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, body: bytes, headers: dict[str, str]) -> None:
        """Send 200 with a body, or only its length."""
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def main() -> None:
    """Serve on the loopback address until stopped."""
    Hub.branches = {b: Path(f) for b, _, f in (pair.partition("=") for pair in sys.argv[2:])}
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()


if __name__ == "__main__":
    main()
