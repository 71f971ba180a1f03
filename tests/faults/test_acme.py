"""A certificate by ACME: site.yml, the real gateway and the real client (lego) against Pebble, Let's Encrypt's server for tests.

Pebble refuses some of all nonces by chance and is strict, as it is by default; it knows no name but by the DNS server beside it
(pebble-challtestsrv), and asks at the gateway's published port 80. The host is one of its own; the engine is a STUB.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.base.names import ACME_IMAGE
from ansible.module_utils.llm.gateway import acme
from ansible.module_utils.llm.gateway import host as gateway_host
from ansible.module_utils.llm.plan import compose

from tests import catalogs
from tests.e2e.demo import CHECKOUT, Run
from tests.faults.stub.host import DECLARED, PORT, SERVICE, StubHost

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = ["api.llm.example.org", "api.stub.llm.example.org"]
NAME = NAMES[0]
SERVER = "https://pebble:14000/dir"
LASTS = 90  # seconds, of a certificate: renewed after 60
CLIENT = Path(__file__).parent / "stub/tls_client.py"


class Pebble:
    """The server, in a container of the host's network `llm-front`; its roots are others whenever it is started."""

    def __init__(self, host: StubHost, folder: Path, image: str) -> None:
        self.host, self.folder = host, folder
        network = host.client.networks.create(names.FRONT_NETWORK, driver="bridge")
        network.reload()
        self.address = network.attrs["IPAM"]["Config"][0]["Gateway"]  # the host, as containers see it
        self._certificates()
        config = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/pebble/pebble.pem",
            "privateKey": "/pebble/pebble.key",
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": LASTS,
        }
        (folder / "config.json").write_text(json.dumps({"pebble": config}))
        dns = f"-dns01 :8053 -defaultIPv4 {self.address} -defaultIPv6 '' -http01 '' -https01 '' -tlsalpn01 ''"
        self.container = host.client.containers.run(
            image,
            [
                "sh",
                "-c",
                f"/tools/pebble-challtestsrv {dns} & exec /tools/pebble -strict -config /pebble/config.json -dnsserver :8053",
            ],
            entrypoint="",
            name="pebble",
            network=names.FRONT_NETWORK,
            environment={"PEBBLE_VA_NOSLEEP": "1"},
            volumes={
                str(folder): {"bind": "/pebble", "mode": "ro"},
                str(tools()): {"bind": "/tools", "mode": "ro"},
            },
            detach=True,
        )
        self.await_up()

    def _certificates(self) -> None:
        """Those of the server itself: an authority, and what it issues."""
        uses = self.folder / "uses"
        uses.write_text("subjectAltName=DNS:pebble\n")
        ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        for command in (
            f"req -x509 {ec} -subj /CN=authority -keyout ca.key -out ca.pem -days 10",
            f"req {ec} -subj /CN=pebble -keyout pebble.key -out pebble.csr",
            "x509 -req -in pebble.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile uses -out pebble.pem",
        ):
            subprocess.run(["openssl", *command.split()], cwd=self.folder, check=True, capture_output=True)

    def await_up(self) -> None:
        """Wait until it answers, and keep its root."""

        def root() -> bool:
            rc, text = self.inside("https://localhost:15000/roots/0")
            (self.folder / "root.pem").write_bytes(text)
            return bool(rc == 0)

        await_(root, lambda: self.container.logs().decode())

    def inside(self, url: str, body: str = "") -> tuple[int, bytes]:
        """Exit code and answer of a request from its own container."""
        program = "import ssl, sys, urllib.request as r; c = ssl._create_unverified_context(); "
        program += "print(r.urlopen(sys.argv[1], sys.argv[2].encode() or None, context=c).read().decode())"
        rc, text = self.container.exec_run(["python3", "-c", program, url, body])
        return int(rc), bytes(text)

    @property
    def asked(self) -> int:
        """Requests that it has had."""
        return int(self.container.logs().decode().count(" /dir "))


class Client:
    """One that keeps its first connection open; see stub/tls_client.py."""

    def __init__(self, host: StubHost, root: Path) -> None:
        command = [sys.executable, str(CLIENT), NAME, str(root)]
        self.process = subprocess.Popen(
            host._entered(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.says: dict[str, Any] = self.ask("again")

    def ask(self, word: str) -> dict[str, Any]:
        """again: over the first connection; new: over another."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            raise AssertionError(line + self.process.stdout.read()) from None
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def tools() -> Path:
    """Debian's pebble and pebble-challtestsrv, without being installed; they are kept for the next time."""
    place = CHECKOUT / ".cache/pebble"
    tool = place / "usr/bin/pebble"
    if not tool.exists():
        place.mkdir(parents=True, exist_ok=True)
        get = ["apt-get", "-q", "download", "pebble"]
        if subprocess.run(get, cwd=place, check=False, capture_output=True).returncode:
            subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
            subprocess.run(get, cwd=place, check=True, capture_output=True)
        package = next(place.glob("pebble_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
        package.unlink()
    return tool.parent


def await_(what: Callable[[], Any], told: Callable[[], object]) -> None:
    end = time.monotonic() + 240
    while not what():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


def image(folder: Path) -> str:
    """The client's image, made of its declaration where it is not there."""
    images = catalogs.declared("demo").images

    def job(name: str) -> dict[str, Any]:
        bases = sorted({s["build"]["base"] for s in images[name].sources if "build" in s})
        own = {"name": name, "ref": compose.image_ref(images[name]), "sources": list(images[name].sources)}
        return {**own, "proofs": {}, "services": {}, "bases": [job(b) for b in bases]}

    found = job(ACME_IMAGE)
    if subprocess.run(["docker", "image", "inspect", found["ref"]], capture_output=True, check=False).returncode:
        given = {"vllm_image_root": str(folder), "vllm_image_wanted": [found]}
        given["vllm_image_ca_bundle"] = os.environ.get("SSL_CERT_FILE", "")
        play = [{"hosts": "localhost", "gather_facts": False, "roles": [{"role": "vllm_image", "vars": given}]}]
        (folder / "play.yml").write_text(json.dumps(play))
        program = CHECKOUT / ".venv/bin/ansible-playbook"
        environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")}
        command = [str(program), "-i", str(CHECKOUT / "inventory/demo"), str(folder / "play.yml")]
        subprocess.run(command, cwd=CHECKOUT, env=environment, check=True)
    return str(found["ref"])


@pytest.fixture(scope="module")
def pebble(host: StubHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """The server on a host that has nothing yet; the client's image is there."""
    folder = tmp_path_factory.mktemp("pebble")
    ref = image(folder)
    with subprocess.Popen(["docker", "save", ref], stdout=subprocess.PIPE) as saved:
        host._docker("load", stdin=saved.stdout)
    host.reset()
    yield Pebble(host, folder, ref)
    host.reset()


def site(pebble: Pebble, *arguments: str, names: tuple[str, ...] = (), book: str = "site.yml", **acme_too: Any) -> Run:
    """A run with a certificate by ACME declared; `acme=None`: with none."""
    wanted = {"email": "ops@llm.example.org", "terms_agreed": True, "server": SERVER}
    wanted = acme_too.get("acme", {**wanted, "ca_file": str(pebble.folder / "ca.pem")})
    gateway = {
        "wait": 1,
        "http_port": 80,
        "https_port": 443,
        "names": list(names),
        **({"acme": wanted} if wanted else {}),
    }
    declared = {"llm_domain": "llm.example.org", "llm_bind_address": "0.0.0.0", "llm_gateway": gateway}
    declared["llm_services_custom"] = {SERVICE: {**DECLARED, "hostname": "stub"}}
    return pebble.host.run(book, *arguments, "-e", json.dumps(declared))


@contextlib.contextmanager
def client(pebble: Pebble, root: Path | None = None) -> Iterator[Client]:
    found = Client(pebble.host, root or pebble.folder / "root.pem")
    try:
        yield found
    finally:
        found.close()


def attempt(host: StubHost) -> acme.Attempt:
    return acme.attempt((host.root / "gateway" / acme.DATA / acme.ATTEMPT).read_text())


def failed(host: StubHost) -> bool:
    """Whether the last attempt has failed; one that goes on counts as such until it ends."""
    found = attempt(host)
    return bool(found.get("error")) and not found.get("asking")


def status_of(host: StubHost, method: str, url: str) -> str:
    """Status and where to, of one plain request from the host itself."""
    word = ["curl", "--silent", "--path-as-is", "--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}"]
    return subprocess.run(
        host._entered([*word, "--request", method, "--header", f"Host: {NAME}", url]),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.fixture(scope="module")
def deployed(pebble: Pebble) -> Pebble:
    """The first deployment."""
    shown = site(pebble, "--check", "--diff").passed()
    shown.says(f"certificate, asked for at {SERVER} in the name of ops@llm.example.org", *(f"+{n}" for n in NAMES))
    assert pebble.asked == 0, "a look asks no server"
    site(pebble).passed()
    return pebble


def test_a_first_deployment_has_a_certificate_and_the_next_run_nothing_to_do(deployed: Pebble) -> None:
    with client(deployed) as one:
        assert one.says["status"] == 200 and sorted(one.says["names"]) == NAMES
    asked = deployed.asked
    run = site(deployed).passed()
    assert (run.changed, deployed.asked) == (0, asked)


def test_what_is_secret_stays_so(deployed: Pebble) -> None:
    data = deployed.host.root / "gateway" / acme.DATA
    keys = [*data.glob("accounts/*/*/keys/*.key"), *data.glob("certificates/*.key")]
    assert (
        len(keys) == 2 and all(k.stat().st_mode & 0o777 == 0o600 for k in keys) and data.stat().st_mode & 0o777 == 0o700
    )
    logs = [c.logs().decode() for c in deployed.host.client.containers.list()] + [
        site(deployed, "-vvv", "--diff").stdout
    ]
    for key in keys:
        secret = key.read_text().splitlines()[1]
        assert not any(secret in log for log in logs)
    assert all("PRIVATE KEY" not in log for log in logs)


def test_port_80_leads_nowhere_but_to_the_client(deployed: Pebble) -> None:
    question = "/.well-known/acme-challenge/"
    host, url = deployed.host, f"http://127.0.0.1{question}"
    assert status_of(host, "GET", f"{url}token") == "503", "while nobody has a question open, nobody answers"
    for method, path in (
        ("POST", f"{question}token"),
        ("GET", question),
        ("GET", f"{question}../../v1/models"),
        ("GET", f"{question}a/b"),
        ("GET", "/.well-known/other"),
        ("GET", "/v1/models"),
    ):
        assert status_of(host, method, f"http://127.0.0.1{path}").startswith("308 https://"), path
    assert status_of(host, "GET", f"http://127.0.0.1:{PORT}{question}token") == "404"


def test_a_certificate_is_renewed_while_nobody_runs_anything_and_connections_stay(deployed: Pebble) -> None:
    with client(deployed) as one:
        await_(lambda: one.ask("new")["serial"] != one.says["serial"], lambda: one.says)
        assert one.ask("again") == one.says, "the connection of before is as it was"
        assert sorted(one.ask("new")["names"]) == NAMES
    assert site(deployed).passed().changed == 0


@pytest.mark.fault(31, "an ACME server that is down: the gateway keeps its certificate, and the plan says so")
def test_without_the_server_the_gateway_keeps_what_it_has(deployed: Pebble) -> None:
    shown = deployed.host.root / "gateway" / gateway_host.PEM
    with client(deployed) as one:
        deployed.container.stop()
        try:
            # It asks on: the gateway closes what is silent for a minute.
            await_(lambda: bool(one.ask("again")) and failed(deployed.host), lambda: attempt(deployed.host))
            assert one.ask("new") == one.ask("again") == one.says
            had = shown.read_text()
            run = site(deployed, book="playbooks/status.yml").passed()
            run.says("llm_gateway.acme", "could not be renewed 1 times in a row: ", "it ends in 0 days")
            run = site(deployed, names=("new.llm.example.org",)).refused()
            run.says(f"no certificate for {NAME}", "new.llm.example.org", f"from {SERVER}: ")
            run.says("The gateway serves with the certificate that it had")
            assert shown.read_text() == had and deployed.host.status() == 200
        finally:
            deployed.container.start()
            deployed.await_up()
    site(deployed).passed()  # with an account that the server has forgotten: it keeps none over a start
    with client(deployed) as one:
        assert sorted(one.says["names"]) == NAMES


def test_a_name_that_leads_elsewhere_is_named(deployed: Pebble) -> None:
    before = deployed.asked
    nowhere = {"host": "lost.llm.example.org.", "addresses": ["127.0.0.1"]}
    assert deployed.inside("http://localhost:8055/add-a", json.dumps(nowhere))[0] == 0
    run = site(deployed, names=("lost.llm.example.org",)).refused()
    run.says("[lost.llm.example.org] acme: error")
    assert deployed.asked > before
    site(deployed).passed()


def test_another_way_takes_the_client_away(deployed: Pebble) -> None:
    site(deployed, acme=None).passed()
    host = deployed.host
    assert "llm-acme" not in host.containers()
    with client(deployed, host.root / "gateway/ca/ca.pem") as one:
        assert one.says["status"] == 200
    assert list((host.root / "gateway" / acme.DATA).glob("accounts/*/*/keys/*.key")), "the account stays"
    assert site(deployed, acme=None).passed().changed == 0
