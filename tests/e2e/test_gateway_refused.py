"""What is wrong with names, certificates, ports and keys of the gateway is refused in the plan; the one that runs is untouched."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.llm.gateway import host as gateway_host

from tests.e2e.demo import ROOT, SERVICE, Machine, Playbook, Run

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("untouched")]

CERTIFICATE = "llm_gateway.certificate "
NAMES = "DNS:localhost,IP:127.0.0.1"


def issue(folder: Path, name: str, days: int = 90) -> tuple[str, str]:
    """(certificate, key) that signs itself; with negative days it has ended."""
    cert, key, csr = (folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
    (folder / "uses").write_text(f"subjectAltName={NAMES}\n")
    for argv in (
        f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout {key} -out {csr}",
        f"x509 -req -in {csr} -signkey {key} -days {days} -extfile {folder / 'uses'} -out {cert}",
    ):
        subprocess.run(["openssl", *argv.split()], check=True, capture_output=True)
    return str(cert), str(key)


def declared(**settings: object) -> tuple[str, str]:
    """Arguments that declare another gateway for one run; its ports are the demo's."""
    return "-e", json.dumps({"llm_gateway": {"https_port": 8443, "http_port": 8080, **settings}})


def refused(run: Run, *words: str) -> None:
    """A run that is refused once the host has been looked at, and before it is changed."""
    run.refused().says("refused, 1 problem; nothing was touched.", *words)
    assert run.changed == 0 and [t for t in run.tasks if t != "Leave the host to others"][-1] == "Plan"


@pytest.mark.fault(31, "a given one that has ended is refused, one that ends in 5 days is warned of")
def test_a_certificate_that_ends(playbook: Playbook, tmp_path: Path) -> None:
    cert, key = issue(tmp_path, "ended", -1)
    refused(playbook("site.yml", *declared(certificate=cert, key=key)), CERTIFICATE, f"{cert} has ended at 2")
    cert, key = issue(tmp_path, "ends", 5)
    run = playbook("site.yml", "--check", *declared(certificate=cert, key=key)).passed()
    run.says(CERTIFICATE, "ends in ", "Put a new one in its place and run site.yml")


@pytest.mark.parametrize("case", ["of-another-certificate", "missing", "no-key", "certificate-missing"])
def test_a_key_that_is_of_no_use(playbook: Playbook, tmp_path: Path, case: str) -> None:
    cert, key = issue(tmp_path, "one")
    wrong = str(tmp_path / "wrong")
    if case == "of-another-certificate":
        refused(
            playbook("site.yml", *declared(certificate=cert, key=issue(tmp_path, "two")[1])),
            "key in",
            "does not belong to it",
        )
    elif case == "missing":
        refused(
            playbook("site.yml", *declared(certificate=cert, key=wrong)), f"the key in {wrong} cannot be read: No such"
        )
    elif case == "no-key":
        Path(wrong).write_text("nonsense\n")
        refused(
            playbook("site.yml", *declared(certificate=cert, key=wrong)), f"the key in {wrong} is no private key in PEM"
        )
    else:
        refused(playbook("site.yml", *declared(certificate=wrong, key=key)), f"{wrong}: No such file")


def test_a_certificate_for_other_names(playbook: Playbook, tmp_path: Path) -> None:
    cert, key = issue(tmp_path, "one")
    words = (CERTIFICATE, "is not for llm.example.org (it is for localhost")
    refused(playbook("site.yml", *declared(certificate=cert, key=key, names=["llm.example.org"])), *words)


def test_a_port_of_the_door_that_another_process_has(playbook: Playbook) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = (
            "llm_gateway.https_port ",
            f"port {port} is taken by process ",
            f"(pid {os.getpid()})",
            "or 0 for none",
        )
        refused(playbook("site.yml", *declared(https_port=port)), *words)


def test_names_ports_and_sizes_that_cannot_be(playbook: Playbook) -> None:
    box = ("-i", "inventory/rtx4090x3", "playbooks/validate.yml", "-e")
    clash = {"llm_services_custom": {"mini-zwz": {"hostname": "medium"}}, "llm_gateway": {"https_port": 5002}}
    run = playbook(*box, json.dumps(clash)).refused().says("nothing was touched.")
    run.says("llm_services.mini-zwz.hostname", "clashes with `medium-glm`: both are to answer as `medium`")
    run.says("llm_gateway.https_port", "5002 is the port of service `medium-glm` too")
    run = playbook(*box, json.dumps({"llm_gateway": {"body_limit": 0}})).refused()
    run.says("llm_gateway", "`body_limit` must be a size with a unit such as 16g or 512m", "got 0")


def test_keys_that_make_no_sense(playbook: Playbook) -> None:
    book = ("playbooks/keys.yml", "-e", "llm_key_do=create", "-e", "llm_key_client=nobody")
    for given, words in (
        (("-e", "llm_key_services=micro-cpuu"), ("names no service: `micro-cpuu`. Did you mean `micro-cpu`?",)),
        (("-e", f"llm_key_services={SERVICE}", "-e", "llm_key_per_minute=0"), ("llm_key_per_minute is 0",)),
    ):
        run = playbook(*book, *given).refused().says(*words, "No key was changed.")
        assert run.changed == 0


@pytest.fixture
def clients(machine: Machine) -> Iterator[Path]:  # noqa: ARG001 - deployed
    """The file of the clients' keys, which is put back as it was."""
    path = ROOT / "gateway" / gateway_host.CLIENTS
    before = path.read_bytes() if path.exists() else None
    yield path
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
        path.chmod(0o600)


def test_an_edited_file_of_keys(playbook: Playbook, clients: Path) -> None:
    entry = {"id": "k1", "client": "x", "sha256": "0" * 64, "services": [SERVICE], "created": 0, "per_minute": -1}
    clients.write_text(json.dumps({"keys": [entry]}))
    refused(playbook("site.yml"), f"{clients}: key k1 of client x: per_minute must be a whole number from 0 on, got -1")
    clients.write_text(json.dumps({"keys": [{**entry, "per_minute": 1, "services": ["micro-cpuu"]}]}))
    run = playbook("playbooks/status.yml").passed()
    run.says("key k1 of client x is for `micro-cpuu`, which is not declared", "Did you mean `micro-cpu`?")
