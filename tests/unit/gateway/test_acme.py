"""Certificates by ACME: what is refused, when one is asked for, and the program that asks."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.facts import AcmeConfig, AcmeRequest, Certificate
from ansible.module_utils.llm.gateway import acme, certificates, haproxy
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import needs, program

from tests import catalogs

DAY = 86400
NOW = 1_800_000_000.0
ACME = {"email": "ops@example.org", "terms_agreed": True}
OPEN = {"domain": "llm.example.org", "bind_address": "192.0.2.1"}
CONFIG: AcmeConfig = {"server": "https://s/dir", "email": "a@b.c", "names": ["x.org", "y.org"]}
ISSUED: acme.Issued = {"server": "https://s/dir", "names": ["y.org", "x.org"]}


def found(acme_of: dict[str, Any] | None = None, **host: Any) -> list[tuple[str, str, str]]:
    acme_of = ACME if acme_of is None else acme_of
    gateway = {"acme": acme_of, "ports_address": "127.0.0.1", **host.pop("gateway", {})}
    declared = catalogs.declared("rtx4090x3", **{**OPEN, **host}, gateway=gateway)
    return [(f.severity, f.key, f.message) for f in gateway_plan.findings(declared)[""]]


def refused(*words: str, **host: Any) -> None:
    ((severity, key, message),) = found(**host)
    assert severity == "error" and key == words[0] and words[1] in message


# ---------------------------------------------------------------------------------------------------------------------
# The declaration.


def test_names_come_from_the_services_and_addresses_are_not_asked_for() -> None:
    declared = catalogs.declared("rtx4090x3", **OPEN, gateway={"acme": ACME, "names": ["LLM.example.org"]})
    names = ["api.llm.example.org", "llm.example.org", "api.medium.llm.example.org", "api.mini.llm.example.org"]
    told = {"server": "https://acme-v02.api.letsencrypt.org/directory", "email": "ops@example.org", "ca_file": ""}
    assert gateway_plan.settings(declared)["acme"] == {**told, "names": names}
    assert found() == []
    assert gateway_plan.settings(catalogs.declared("demo"))["acme"] == {}


def test_what_no_server_would_give_is_refused() -> None:
    refused("llm_gateway.acme", "this host has no name", domain="")
    refused("llm_gateway.http_port", "is 0", gateway={"http_port": 0})
    refused("llm_gateway.https_port", "is 0", gateway={"https_port": 0})
    refused("llm_gateway.names", "has 192.0.2.7", gateway={"names": ["192.0.2.7"]})
    refused("llm_gateway.names", "gives box.local", gateway={"names": ["box.local"]})
    many = [f"n{number}.example.org" for number in range(98)]
    refused("llm_gateway.acme", "asks for 101 names", gateway={"names": many})
    assert found(gateway={"names": many[:-1]}) == []


def test_names_that_nobody_else_knows_are_for_a_server_of_one_s_own() -> None:
    messages = [message for _, key, message in found(domain="corp.internal") if key == "llm_domain"]
    assert len(messages) == 3 and "gives api.corp.internal, " in messages[0]
    assert (
        found({**ACME, "server": "https://ca.corp.internal/dir", "ca_file": "/etc/ca.pem"}, domain="corp.internal")
        == []
    )


def test_what_something_in_front_may_put_right_is_warned_of() -> None:
    assert [f[:2] for f in found(gateway={"http_port": 8080})] == [("warn", "llm_gateway.http_port")]
    assert [f[:2] for f in found(bind_address="::1")] == [("warn", "llm_bind_address")]


@pytest.mark.parametrize(
    ("gateway", "says"),
    [
        ({"acme": ACME, "certificate": "/c", "key": "/k"}, "comes from one of them"),
        ({"acme": {"email": "ops@example.org"}}, "terms_agreed"),
        ({"acme": {**ACME, "terms_agreed": False}}, "must be true once you have read"),
        ({"acme": {**ACME, "email": "ops"}}, "must be an e-mail address"),
        ({"acme": {**ACME, "server": "http://s/dir"}}, "begins with https://"),
        ({"acme": {**ACME, "mail": "x"}}, "mail"),
    ],
)
def test_what_makes_no_sense_is_refused(gateway: dict[str, Any], says: str) -> None:
    declared, findings = parse.parse(catalogs.raw("rtx4090x3", **OPEN, gateway=gateway))
    assert declared is None and all(f.key.startswith("llm_gateway") for f in findings)
    assert says in " ".join(f.text() for f in findings)


@pytest.mark.parametrize(
    ("name", "private"),
    [("box", True), ("a.LOCAL", True), ("a.b.internal", True), ("x.home.arpa", True), ("a.example.org", False)],
)
def test_names_of_no_public_server(name: str, private: bool) -> None:
    assert acme.is_private(name) is private


def test_the_client_s_image_is_made_where_there_is_a_client() -> None:
    assert needs.gateway_images(catalogs.declared("rtx4090x3", **OPEN, gateway={"acme": ACME})) == ["haproxy", "acme"]
    assert needs.gateway_images(catalogs.declared("demo")) == ["haproxy"]


# ---------------------------------------------------------------------------------------------------------------------
# What is there.


def certificate(begins: float, ends: float, problem: str = "") -> Certificate:
    return {"names": ["x.org"], "begins": begins, "expires": ends, "problem": problem}


def test_one_is_asked_for_when_it_is_not_what_is_declared_or_ends() -> None:
    good = certificate(NOW, NOW + 90 * DAY)
    assert acme.due(CONFIG, ISSUED, good, NOW + 59 * DAY) == ""
    assert acme.due(CONFIG, ISSUED, good, NOW + 60 * DAY) == "it ends soon"
    assert acme.due(CONFIG, ISSUED, certificate(NOW, NOW + 6 * DAY), NOW + 3 * DAY) == ""
    assert acme.due(CONFIG, {}, good, NOW) == "there is none"
    assert acme.due(CONFIG, {**ISSUED, "server": "https://other/dir"}, good, NOW) == "it is of another server"
    assert acme.due(CONFIG, {**ISSUED, "names": ["x.org"]}, good, NOW) == "it is for other names"
    assert acme.due(CONFIG, ISSUED, certificate(NOW, NOW + 90 * DAY, "has ended"), NOW) == "has ended"


def test_failures_are_followed_by_ever_longer_pauses() -> None:
    assert [acme.pause(n) for n in (0, 1, 2, 3, 4, 9, 10_000)] == [0, 300, 1200, 4800, 19200, 21600, 21600]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (
            "2026/11/29 02:00:00 [INFO] [x.org] acme: Obtaining\n2026/11/29 02:00:01 Could not obtain certificates:\n"
            "\terror: one or more domains had a problem:\n[x.org] acme: error: 400 :: connection\n",
            "Could not obtain certificates: error: one or more domains had a problem: [x.org] acme: error: 400 :: connection",
        ),
        (
            "2026/11/29 02:00:00 Could not create client: get directory: connection refused",
            "Could not create client: get",
        ),
        ("one\n\ntwo\n", "two"),
        ("", "it said nothing"),
    ],
)
def test_of_a_failure_the_reason_is_told(output: str, told: str) -> None:
    assert acme.reason(output).startswith(told)


def test_a_damaged_record_is_none() -> None:
    assert [acme.attempt(text) for text in ("", "{", "[]", '{"next": 1}')] == [{}, {}, {}, {"next": 1}]
    assert [acme.issued(text) for text in ("", "{", "[]", '{"server": "s"}')] == [{}, {}, {}, {"server": "s"}]


def test_the_plan_warns_of_renewals_that_fail_and_of_one_that_nobody_tries() -> None:
    declared = catalogs.declared("rtx4090x3", **OPEN, gateway={"acme": ACME})
    state = {"missing": "", "error": "", "failures": 0, "ca_problem": ""}
    good = certificate(NOW - 65 * DAY, NOW + 25 * DAY)

    def said(base: Certificate = good, **more: Any) -> list[tuple[str, str, str]]:
        seen: Any = {**base, "acme": {**state, **more}}
        findings = gateway_plan.host_findings(declared, seen, NOW)
        return [(f.severity, f.key, f.message) for f in findings]

    assert said() == []
    ((severity, _, message),) = said(error="refused", failures=2)
    assert severity == "warn" and message.startswith(
        "could not be renewed 2 times in a row: refused; it ends in 25 days"
    )
    ((severity, _, message),) = said(certificate(NOW - 70 * DAY, NOW + 20 * DAY))
    assert severity == "warn" and "not renewed in time" in message
    assert said(missing="there is none", error="refused", failures=1) == [], "the run tries, and says what came of it"
    assert said(ca_problem="/etc/ca.pem: No such file")[0][:2] == ("error", "llm_gateway.acme.ca_file")
    assert gateway_plan.host_findings(declared, {}, NOW) == []


REQUEST: Any = {**CONFIG, "ca_file": "/etc/ca.pem"}


def client_wanted(found: Any, compose: str = "x: LOADED") -> program.Wanted:
    return gateway_plan.acme_wanted({"app/a.py": ""}, REQUEST, compose, found)


def test_a_client_is_left_alone_when_it_has_brought_the_certificate_that_is_declared() -> None:
    wanted = client_wanted({})
    assert json.loads(wanted["files"]["config.json"]) == CONFIG and not wanted["good"]
    runs = {"files": program.sums(wanted["files"]), "state": "running", "loaded": wanted["loaded"]}
    got = {"missing": "", "ca_differs": False}
    for acme_of, state, good in (
        (runs, got, True),
        ({**runs, "state": "exited"}, got, False),
        (runs, {**got, "missing": "there is none"}, False),
        (runs, {**got, "ca_differs": True}, False),
    ):
        assert client_wanted({"acme": acme_of, "certificate": {"acme": state}})["good"] is good
    assert not client_wanted({"acme": runs, "certificate": {}})["good"], "of a certificate nothing is known"


def test_where_none_is_asked_for_there_is_to_be_no_client() -> None:
    assert client_wanted({}, "")["good"] and not client_wanted({}, "")["files"]
    assert not client_wanted({"acme": {"state": "running", "files": {"compose.yml": "0"}}}, "")["good"]


# ---------------------------------------------------------------------------------------------------------------------
# The program, with stubs of lego and of HAProxy's socket.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / acme.DATA / acme.CERTIFICATES).mkdir(parents=True)
    (tmp_path / "etc/tls").mkdir(parents=True)
    (tmp_path / acme.FOLDER / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, whose lego makes a certificate that signs itself, or fails with the text in `client.fails`."""
    program: Any = importlib.import_module("acme_client.__main__")
    found = program.Client(folder)
    found.fails, found.asked, found.told = "", 0, []

    def ask() -> str:
        found.asked += 1
        cert, key = (folder / acme.DATA / f for f in acme.certificate_files(CONFIG))
        argv = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 90 -addext"
        more = [
            f"subjectAltName={','.join(f'DNS:{n}' for n in CONFIG['names'])}",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ]
        if not found.fails:
            subprocess.run(["openssl", *argv.split(), *more], check=True, capture_output=True)
        return str(found.fails)

    monkeypatch.setattr(program, "LOOKED", folder / "looked")
    monkeypatch.setattr(found, "_led", lambda: "")
    monkeypatch.setattr(found, "_ask", ask)
    monkeypatch.setattr(haproxy, "shown_certificate", lambda *_: found.told[-1] if found.told else "other")
    monkeypatch.setattr(haproxy, "load_certificate", lambda *a: found.told.append(certificates.fingerprint(a[2])) or "")
    return found


def attempt(folder: Path) -> acme.Attempt:
    return acme.attempt((folder / acme.DATA / acme.ATTEMPT).read_text())


def test_it_asks_once_and_has_haproxy_use_what_it_got(client: Any, folder: Path) -> None:
    client.look()
    pem = (folder / gateway_host.PEM).read_text()
    assert (client.asked, client.told) == (1, [certificates.fingerprint(pem)]) and attempt(folder)["error"] == ""
    request: AcmeRequest = {
        "server": CONFIG["server"],
        "email": CONFIG["email"],
        "names": CONFIG["names"],
        "ca_file": "",
    }
    assert gateway_host.acme_certificate(folder, request)["acme"]["missing"] == ""
    client.look()
    assert (client.asked, len(client.told)) == (1, 1)


def test_what_another_put_in_its_place_is_put_right(client: Any, folder: Path) -> None:
    client.look()
    pem = (folder / gateway_host.PEM).read_text()
    (folder / gateway_host.PEM).chmod(0o600)
    (folder / gateway_host.PEM).write_text("other")
    client.told.append("other")
    client.look()
    assert (folder / gateway_host.PEM).read_text() == pem and client.told[-1] == certificates.fingerprint(pem)


def test_a_failure_is_told_and_not_repeated_at_once(client: Any, folder: Path) -> None:
    client.fails = "Could not"
    client.look()
    client.look()
    told = attempt(folder)
    assert client.asked == 1 and (told["error"], told["failures"]) == ("Could not", 1) and "asking" not in told
    assert not (folder / gateway_host.PEM).exists() and client.told == []
    (folder / acme.DATA / acme.ATTEMPT).unlink()  # what a run does
    client.fails = ""
    client.look()
    assert client.asked == 2 and attempt(folder)["error"] == ""


def test_one_that_was_killed_while_it_asked_waits_as_after_a_failure(client: Any, folder: Path) -> None:
    def killed() -> str:
        raise KeyboardInterrupt

    client._ask = killed
    with pytest.raises(KeyboardInterrupt):
        client.look()
    assert attempt(folder)["asking"] is True
    asked = client.asked
    client.look()
    assert client.asked == asked and "asking" not in attempt(folder) and attempt(folder)["failures"] == 1


def test_a_certificate_is_given_to_haproxy_without_the_lines_that_would_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def say(_: Path, command: str) -> str:
        said.append(command)
        return "Transaction created for certificate x!" if command.startswith("set") else "Committing x.\nSuccess!"

    monkeypatch.setattr(haproxy, "say", say)
    assert haproxy.load_certificate(Path(), "tls/door.pem", "one\n\ntwo\n") == ""
    assert said == [
        "set ssl cert /usr/local/etc/haproxy/tls/door.pem <<\none\ntwo\n",
        "commit ssl cert /usr/local/etc/haproxy/tls/door.pem",
    ]
    monkeypatch.setattr(haproxy, "say", lambda *_: "unable to load certificate")
    assert haproxy.load_certificate(Path(), "tls/door.pem", "one\n") == "unable to load certificate"


def test_an_account_that_the_server_forgot_is_known_by_the_error_and_its_file_by_the_server() -> None:
    said = "acme: error: 400 :: POST :: https://a/order :: urn:ietf:params:acme:error:accountDoesNotExist :: not found"
    assert acme.account_is_lost(said)
    assert not acme.account_is_lost(said.replace("accountDoesNotExist", "rateLimited"))
    config: AcmeConfig = {"server": "https://pebble:14000/dir", "email": "ops@example.org", "names": ["a.example.org"]}
    assert acme.account_file(config) == "accounts/pebble_14000/ops@example.org/account.json"
