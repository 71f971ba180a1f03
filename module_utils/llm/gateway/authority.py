"""The gateway's certificate: one that was given, or one of the host's own authority, which openssl makes.

A Debian or Ubuntu that trusts any server has openssl; `cryptography` would be needed in the host's environment for this alone.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from ansible.module_utils.llm.base import addresses, files
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.gateway import certificates
from ansible.module_utils.llm.gateway import host as gateway_host

FOLDER = "ca"  # below the gateway's folder
CA_DAYS, DAYS = 3650, 397  # no client takes a server's certificate that is valid for longer
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"]


class NoCertificate(Exception):
    """Why the gateway can have no certificate, and what to do; nothing was replaced."""


def pem(module: Module, folder: Path) -> tuple[str, str]:
    """Certificate and key as HAProxy reads them, and why they are others than before ("" when they are not).

    Raises NoCertificate.
    """
    wanted = module.params["certificate"]
    old = files.read(folder / gateway_host.PEM)
    if not wanted.get("https_port"):
        return old, ""
    now = time.time()
    if wanted.get("certificate"):
        given = certificates.given(Path(wanted["certificate"]), Path(wanted["key"]), now)
        if given["problem"]:
            raise NoCertificate(f"llm_gateway.certificate: {given['problem']}. The running gateway is untouched")
        return given["pem"], "" if given["pem"] == old else "another one was given"
    if wanted.get("acme"):
        why = gateway_host.stand_in_is_due(folder)
    else:
        why = gateway_host.own_is_due(folder, wanted["certificate_names"], now)
    if not why or module.check_mode:
        return old, why
    return issued(module, folder, wanted["certificate_names"]), why


def issued(module: Module, folder: Path, names: list[str]) -> str:
    """A new certificate of the host's own authority, which is made first when there is none, or ends before it would.

    Raises NoCertificate.
    """
    authority = folder / FOLDER
    authority.mkdir(mode=0o755, parents=True, exist_ok=True)
    end = certificates.read(authority / "ca.pem")["expires"]
    with tempfile.TemporaryDirectory(dir=authority) as place:  # 0700, and gone with all that is in it
        work = Path(place)
        if end < time.time() + DAYS * 86400 or not (authority / "ca.key").exists():
            subject = f"/CN=Gateway of {socket.gethostname()}"
            uses = ["-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"]
            uses += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            _openssl(module, work, ["req", "-x509", *EC, "-subj", subject, "-days", str(CA_DAYS), *uses]
                    + ["-keyout", "ca.key", "-out", "ca.pem"])  # fmt: skip
            files.write(authority / "ca.key", files.read(work / "ca.key"), 0o400)
            files.write(authority / "ca.pem", files.read(work / "ca.pem"))
        listed = ",".join(f"{'IP' if addresses.is_address(n) else 'DNS'}:{n}" for n in names)
        extensions = (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        )
        files.write(work / "uses", f"{extensions}subjectAltName={listed}\n")
        _openssl(module, work, ["req", *EC, "-subj", "/CN=llm-gateway", "-keyout", "door.key", "-out", "door.csr"])
        _openssl(module, work, ["x509", "-req", "-sha256", "-in", "door.csr", "-days", str(DAYS), "-extfile", "uses"]
                + ["-CA", str(authority / "ca.pem"), "-CAkey", str(authority / "ca.key")]
                + ["-set_serial", f"0x{os.urandom(16).hex()}", "-out", "door.pem"])  # fmt: skip
        return files.read(work / "door.pem") + files.read(authority / "ca.pem") + files.read(work / "door.key")


def _openssl(module: Module, work: Path, argv: list[str]) -> None:
    """Run openssl in a folder; NoCertificate with what it says when it fails."""
    program = module.get_bin_path("openssl")
    if program is None:
        raise NoCertificate(
            "openssl is missing, which makes the gateway's certificate: install it (`apt-get install openssl`), or "
            "give a certificate and its key in llm_gateway. The running gateway is untouched"
        )
    rc, out, err = module.run_command([str(program), *argv], cwd=str(work))
    if rc != 0:
        raise NoCertificate(f"openssl cannot make the gateway's certificate: {(err or out).strip()}")
