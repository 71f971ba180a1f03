"""A package index behind TLS and a password, as companies have one: the folder beside this file, served on port 8443."""

from __future__ import annotations

import base64
import functools
import http.server
import ssl
from pathlib import Path

PLACE = Path(__file__).resolve().parent
WANTED = "Basic " + base64.b64encode(b"builder:s3cret").decode()


class Index(http.server.SimpleHTTPRequestHandler):
    """Folders of wheels, listed as pip reads them, for those who know the password."""

    def do_GET(self) -> None:
        """Answer a request of pip."""
        if self.headers.get("Authorization") == WANTED:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    """Serve until the machine goes."""
    server = http.server.ThreadingHTTPServer(("", 8443), functools.partial(Index, directory=str(PLACE / "mirror")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PLACE / "mirror.crt", PLACE / "mirror.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
