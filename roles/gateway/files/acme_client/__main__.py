"""Usage: python3 -m acme_client FOLDER (the gateway's on the host, with acme/config.json)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.declare.facts import AcmeConfig
from ansible.module_utils.llm.gateway import acme, certificates, haproxy

LOOK_EVERY = 10.0
LOOKED = Path("/tmp/looked")  # noqa: S108 - the container's own; Docker looks at its age
LED_WITHIN = 60.0
"""Seconds for HAProxy to find this container, which Docker has just given an address."""


class Client:
    """What is to be had, and where it goes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / acme.DATA
        self.config: AcmeConfig = json.loads((folder / acme.FOLDER / "config.json").read_text(encoding="utf-8"))
        self.ended = threading.Event()
        self.process: subprocess.Popen[str] | None = None

    def watch(self) -> None:
        """Look until the end."""
        while not self.ended.is_set():
            try:
                self.look()
            except OSError as error:
                print(f"{error.filename or 'acme'}: {error.strerror or error}", flush=True)
            self.ended.wait(LOOK_EVERY)

    def end(self) -> None:
        """End, and what was started as well."""
        self.ended.set()
        if self.process:
            self.process.terminate()

    def look(self) -> None:
        """Ask for a certificate when one is due, and see that HAProxy has the one that there is."""
        now = time.time()
        LOOKED.touch()
        before = acme.attempt(files.read(self.data / acme.ATTEMPT))
        attempt = before.copy()
        attempt.pop("asking", None)  # which was before this program began
        issued = acme.issued(files.read(self.data / acme.ISSUED))
        found = self._found(now)
        why = acme.due(self.config, issued, found, now)
        if why and now >= attempt.get("next", 0):
            attempt = self._attempt(why, int(attempt.get("failures", 0)))
            issued = acme.issued(files.read(self.data / acme.ISSUED))
            found = self._found(time.time())
        if self.ended.is_set():
            return
        if not acme.missing(self.config, issued, found):
            self._serve(found["pem"])
        # Last, for who waits: all is done then.
        after = attempt if why else acme.NO_ATTEMPT
        if after != before:  # else one that a run has just taken away would be there again
            self._note(after)

    def _found(self, now: float) -> certificates.GivenCertificate:
        cert, key = (self.data / f for f in acme.certificate_files(self.config))
        return certificates.given(cert, key, now)

    def _attempt(self, why: str, failures: int) -> acme.Attempt:
        """Ask, and say what came of it."""
        names = ", ".join(self.config["names"])
        print(f"asks {self.config['server']} for {names}: {why}", flush=True)
        # Should this program be killed while it asks, that counts: servers count as well.
        self._note({**self._failed("was interrupted", failures + 1), "asking": True})
        error = self._led() or self._ask()
        if error:
            print(f"failed: {error}", flush=True)
            return self._failed(error, failures + 1)
        kept: acme.Issued = {"server": self.config["server"], "names": self.config["names"]}
        files.write(self.data / acme.ISSUED, json.dumps(kept) + "\n")
        found = self._found(time.time())
        if wrong := acme.missing(self.config, kept, found):
            return self._failed(f"the server gave one that is of no use: {wrong}", failures + 1)
        print(f"got one that ends at {certificates.moment(found['expires'])}", flush=True)
        return {"at": int(time.time()), "error": "", "failures": 0, "next": 0}

    def _failed(self, error: str, failures: int) -> acme.Attempt:
        now = int(time.time())
        return {"at": now, "error": error, "failures": failures, "next": now + acme.pause(failures)}

    def _note(self, attempt: acme.Attempt) -> None:
        files.write(self.data / acme.ATTEMPT, json.dumps(attempt) + "\n")

    def _led(self) -> str:
        """Wait until HAProxy leads the server's questions to this container; what is wrong when it does not."""
        address = socket.gethostbyname(socket.gethostname())
        end = time.monotonic() + LED_WITHIN
        while not self.ended.is_set():
            state = haproxy.server_states(self.folder).get(acme.BACKEND)
            if state and state[:2] == (address, haproxy.SERVES):
                return ""
            if time.monotonic() > end:
                return "the gateway does not lead the server's questions to this client: see `docker logs llm-gateway`"
            self.ended.wait(0.2)
        return "was told to end"

    def _ask(self) -> str:
        """Have lego ask; what is wrong, "" when it has a certificate."""
        done, output = self._lego()
        if not done and acme.account_is_lost(output):
            print("the server does not know the account: registers its key again", flush=True)
            (self.data / acme.account_file(self.config)).unlink(missing_ok=True)
            done, output = self._lego()
        return "" if done else acme.reason(output)

    def _lego(self) -> tuple[bool, str]:
        """Run it; whether it has a certificate, and what it said."""
        argv = acme.argv(self.config, str(self.data))
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            output, _ = self.process.communicate(timeout=acme.patience(self.config))
        except subprocess.TimeoutExpired:
            self.process.kill()
            output = f"{self.process.communicate()[0]}\nCould not be done within {acme.patience(self.config):.0f} s"
        print(output, end="", flush=True)
        return self.process.returncode == 0, output

    def _serve(self, pem: str) -> None:
        """Have it where HAProxy finds it when it starts, and have the one that runs use it."""
        files.write(self.folder / "etc" / haproxy.CERTIFICATE, pem, 0o400)
        wanted = certificates.fingerprint(pem)
        if haproxy.shown_certificate(self.folder, haproxy.CERTIFICATE) in ("", wanted):
            return  # or it does not answer: it reads the file when it starts
        problem = haproxy.load_certificate(self.folder, haproxy.CERTIFICATE, pem)
        print(f"HAProxy does not take the certificate: {problem}" if problem else "HAProxy has it", flush=True)


def main() -> None:
    """Look until SIGTERM."""
    os.umask(0o077)
    client = Client(Path(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: client.end())
    client.watch()


if __name__ == "__main__":
    main()
