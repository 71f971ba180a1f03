"""A client that trusts one authority alone. Usage: tls_client.py NAME ROOT.

Reads lines: again (over the first connection) or new. Prints status of /health at
127.0.0.1:443, and serial number and names of the certificate.
"""

import http.client
import json
import socket
import ssl
import sys


class Connection(http.client.HTTPSConnection):
    """To 127.0.0.1, under whatever name."""

    def connect(self) -> None:
        """Connect, and see that the certificate is right."""
        plain = socket.create_connection(("127.0.0.1", 443), timeout=30)
        self.sock = CONTEXT.wrap_socket(plain, server_hostname=self.host)


def ask(connection: Connection) -> None:
    """One request."""
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert() or {}
    names = [entry[1] for entry in certificate.get("subjectAltName", ())]
    print(json.dumps({"status": answer.status, "serial": certificate.get("serialNumber"), "names": names}), flush=True)


NAME, ROOT = sys.argv[1], sys.argv[2]
CONTEXT = ssl.create_default_context(cafile=ROOT)
first = Connection(NAME)
for line in sys.stdin:
    ask(first if line.strip() == "again" else Connection(NAME))
