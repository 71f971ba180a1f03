"""The gateway's certificate of the host's own authority: made by a real openssl, and what is said when there is none."""

import shutil
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.gateway import apply, authority, certificates
from ansible.module_utils.llm.gateway import host as gateway_host

NAMES = ["gateway.example.org", "10.0.0.7", "::1"]


class Module:
    """Stands for Ansible's module: options, and commands that run here."""

    def __init__(self, check_mode: bool = False, **params: Any) -> None:
        self.params: Mapping[str, Any] = {"certificate": {"https_port": 443, "certificate_names": NAMES}, **params}
        self.check_mode = check_mode
        self.openssl = shutil.which("openssl")

    def run_command(self, args: Sequence[str], cwd: str | None = None, **_: Any) -> tuple[int, str, str]:
        ran = subprocess.run(args, cwd=cwd, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout, ran.stderr

    def get_bin_path(self, arg: str, required: bool = False) -> str | None:
        assert arg == "openssl" and not required
        return self.openssl

    def warn(self, warning: str) -> None:
        raise AssertionError(warning)


def keep(folder: Path, pem: str) -> None:
    files.write(folder / gateway_host.PEM, pem, 0o400)


def test_a_certificate_is_made_once_with_an_authority_that_clients_can_check_it_by(tmp_path: Path) -> None:
    pem, why = authority.pem(Module(), tmp_path)
    assert why == "there is none"
    keep(tmp_path, pem)
    made = certificates.read(tmp_path / gateway_host.PEM)
    assert made["names"] == ["gateway.example.org", "10.0.0.7", "0:0:0:0:0:0:0:1"]
    ca = tmp_path / "ca" / "ca.pem"
    ran = subprocess.run(
        ["openssl", "verify", "-CAfile", ca, tmp_path / gateway_host.PEM], capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / gateway_host.PEM)  # its key is in it
    assert [(p.name, p.stat().st_mode & 0o777) for p in sorted(ca.parent.iterdir())] == [
        ("ca.key", 0o400),
        ("ca.pem", 0o644),
    ]
    assert authority.pem(Module(), tmp_path) == (pem, "")


def test_other_names_get_another_certificate_of_the_same_authority(tmp_path: Path) -> None:
    keep(tmp_path, authority.pem(Module(), tmp_path)[0])
    ca = files.read(tmp_path / "ca" / "ca.pem")
    other = Module(certificate={"https_port": 443, "certificate_names": ["b.example.org"]})
    pem, why = authority.pem(other, tmp_path)
    assert why == "its names are others" and ca in pem and files.read(tmp_path / "ca" / "ca.pem") == ca


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem"])
def test_an_authority_of_which_half_is_lost_is_made_anew(tmp_path: Path, lost: str) -> None:
    authority.issued(Module(), tmp_path, NAMES)
    before = files.read(tmp_path / "ca" / "ca.pem")
    (tmp_path / "ca" / lost).unlink()
    pem = authority.issued(Module(), tmp_path, NAMES)
    after = files.read(tmp_path / "ca" / "ca.pem")
    assert after != before and after in pem and (tmp_path / "ca" / "ca.key").exists()


def test_a_check_makes_nothing_and_without_https_there_is_nothing_to_make(tmp_path: Path) -> None:
    assert authority.pem(Module(check_mode=True), tmp_path) == ("", "there is none")
    assert authority.pem(Module(certificate={}), tmp_path) == ("", "")
    assert not list(tmp_path.iterdir())


def test_openssl_that_is_missing_or_fails_is_named_with_what_to_do(tmp_path: Path) -> None:
    without, failing = Module(), Module()
    without.openssl, failing.openssl = None, shutil.which("false")
    with pytest.raises(authority.NoCertificate, match=r"install it .*or give a certificate and its key in llm_gateway"):
        authority.pem(without, tmp_path)
    with pytest.raises(authority.NoCertificate, match="openssl cannot make the gateway's certificate"):
        authority.pem(failing, tmp_path)
    assert not (tmp_path / "ca" / "ca.pem").exists()


def test_a_given_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    given = {"https_port": 443, "certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    with pytest.raises(authority.NoCertificate, match=r"llm_gateway\.certificate: .*No such file.*untouched"):
        authority.pem(Module(certificate=given), tmp_path)


def test_a_configuration_that_haproxy_refuses_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, ran = Module(uid=0, image="haproxy:3"), []

    def refuse(args: Sequence[str], **_: Any) -> tuple[int, str, str]:
        ran.append((args, (tmp_path / ".staged" / "haproxy.cfg").read_text()))
        return 1, "", "unknown keyword\n"

    monkeypatch.setattr(module, "run_command", refuse)
    monkeypatch.setattr("os.chown", lambda *_: None)
    texts = {"compose.yml": "{}", "etc/haproxy.cfg": "global\n  nonsense\n"}
    with pytest.raises(apply.NotApplied, match=r"HAProxy refuses .*untouched\. unknown keyword"):
        apply.check(module, tmp_path, texts, {"etc/maps/keys.map": "k"})
    ((argv, read),) = ran
    assert read == texts["etc/haproxy.cfg"] and {"none", "haproxy:3"} <= set(argv)
    assert not list(tmp_path.iterdir())
