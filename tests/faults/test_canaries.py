"""Secrets that can be told apart from all else go through deployments, a failure and the verbs, with -vvv --diff: where are they?

On a host of its own, with a STUB of the engine and a STAND-IN for the hub. Sought is everywhere that a deployment writes or says
something; they may be in their homes alone, readable by their owner.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.demo import CHECKOUT, KEY_SHAPE, ROOT
from tests.faults.stub.host import PORT, SERVICE, StubHost

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HUB = 5999
HUB_SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("hub", sys.argv[1])
hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
hub.TOKEN = sys.stdin.readline().strip()
print("ready", flush=True)
hub.serve(int(sys.argv[2]), {"acme/gated@main": hub.Path(sys.argv[3])}).serve_forever()
"""
ASK = """
import json, sys, urllib.request
key, prompt = sys.stdin.readline().split()
body = {"model": "stub", "messages": [{"role": "user", "content": prompt}]}
for name in ("Authorization", "x-api-key"):
    head = {"Content-Type": "application/json", name: "Bearer " * (name != "x-api-key") + key}
    asked = urllib.request.Request(sys.argv[1], json.dumps(body).encode(), head)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60) as answer:
        assert answer.status == 200
"""
# Where secrets are at home, below llm_root.
HOMES = (
    f"keys/{SERVICE}",
    f"services/{SERVICE}/releases/*/secrets/engine.yml",
    f"services/{SERVICE}/releases/*/secrets/client-key",
    "gateway/engine-keys",
    "gateway/etc/maps/engines.map",
    "gateway/etc/tls/door.pem",
)


@dataclass
class Evidence:
    """All that was said, and what processes showed while it was."""

    host: StubHost
    canaries: Mapping[str, tuple[bytes, ...]]
    start: float
    said: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, bytes] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)  # canaries in processes: "pid name: secret"

    def secrets_in(self, text: bytes) -> set[str]:
        """Names of the secrets in a text, also in base64 and with JSON's escapes."""
        return {name for name, words in self.canaries.items() if any(w in text for w in words)}

    def run(self, name: str, *arguments: str, changes: Mapping[str, Any] | None = None) -> Any:
        """A playbook, with all that it can say; its reports are kept."""
        given = ("--vault-password-file", str(self.host.folder / "vault-password"), "-vvv", "--diff")
        with self.watched():
            run = self.host.run(*arguments, *given, changes=changes)
        self.said[name] = run.stdout.encode()
        for path in self.host.folder.joinpath("report").rglob("*"):
            if path.is_file():
                self.reports[f"{name}: {path.name}"] = path.read_bytes()
        return run

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at command lines and environments of all processes meanwhile."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                for process in Path("/proc").glob("[0-9]*"):
                    for what in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            text = (process / what).read_bytes()
                            self.shown |= {f"{text[:80]!r}: {name}" for name in self.secrets_in(text)}

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def read(paths: Iterable[Path]) -> dict[str, bytes]:
    """Content of those that are files."""
    return {str(p): p.read_bytes() for p in paths if p.is_file() and not p.is_symlink()}


def newer(folder: str | Path, start: float, skip: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Files below a folder that were written since."""
    found: dict[str, bytes] = {}
    for path in Path(folder).rglob("*"):
        if any(part in str(path) for part in skip):
            continue
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= start - 1 and path.stat().st_size < 2**24:
                found |= read([path])
    return found


def named(found: Mapping[str, bytes], *patterns: str) -> dict[str, bytes]:
    return {name: text for name, text in found.items() if any(fnmatch(name, p) for p in patterns)}


def docker(evidence: Evidence, *arguments: str) -> bytes:
    command = ["docker", "--host", f"unix://{evidence.host.socket}", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def each(evidence: Evidence, *arguments: str) -> dict[str, bytes]:
    """A docker command for every container."""
    return {c.name: docker(evidence, *arguments, c.name) for c in evidence.host.client.containers.list(all=True)}


# Sink: what is in it. A sink that is empty is none, and fails the test: then nothing would have been looked at.
SINKS: Mapping[str, Callable[[Evidence], Mapping[str, bytes]]] = {
    "output of --check --diff -vvv": lambda e: named(e.said, "check"),
    "output of a deployment, --diff -vvv": lambda e: named(e.said, "deploy"),
    "output of a deployment that fails": lambda e: named(e.said, "fail"),
    "output of a refusal of the hub": lambda e: named(e.said, "hub refuses"),
    "output of verbs": lambda e: named(e.said, "verb *"),
    "list of keys": lambda e: named(e.said, "verb keys"),
    "plan.json": lambda e: named(e.reports, "*plan.json"),
    "verdict.json": lambda e: named(e.reports, "*verdict.json"),
    "junit.xml": lambda e: named(e.reports, "*junit.xml"),
    "report.html": lambda e: named(e.reports, "*report.html"),
    "usage.json": lambda e: named(e.reports, "*usage.json"),
    "clients' configuration": lambda e: named(e.reports, "verb clients*"),
    "compose files": lambda e: read(e.host.root.rglob("compose.yml")),
    "docker inspect of containers": lambda e: each(e, "inspect"),
    "docker inspect of images": lambda e: {
        "": docker(e, "image", "inspect", *docker(e, "images", "-q").decode().split())
    },
    "history of images": lambda e: {
        i: docker(e, "history", "--no-trunc", i) for i in set(docker(e, "images", "-q").decode().split())
    },
    "logs of containers": lambda e: each(e, "logs"),
    "log of the Docker engine": lambda e: read([e.host.folder / "docker.log"]),
    "access log of the gateway": lambda e: {"log": docker(e, "logs", "llm-gateway")},
    "configuration of the gateway": lambda e: read(e.host.root.glob("gateway/etc/*")),
    "keys of clients on the host": lambda e: read([e.host.root / "gateway/clients.json"]),
    "map of clients in the gateway": lambda e: read([e.host.root / "gateway/etc/maps/keys.map"]),
    "state": lambda e: newer(e.host.root / "state", 0),
    "metrics and state of the supervisor": lambda e: newer(e.host.root / "supervisor", 0, ("/app/",)),
    "records of releases": lambda e: newer(e.host.root / "services", 0, ("/secrets/",)),
    "models and their manifests": lambda e: newer(e.host.root / "models", 0),
    "caches": lambda e: newer(e.host.root / "cache", 0) or {"empty": b"-"},
    "processes: command lines and environments": lambda e: {"": "\n".join(e.shown).encode() or b"-"},
    "temporary folders": lambda e: {
        "": b"-",
        **newer("/tmp", e.start, (str(e.host.folder), "/pytest-of-")),
        **newer("/var/tmp", e.start),
        **newer(e.host.folder / "containers", 0),
    },
    "Ansible's own folder": lambda e: {"": b"-", **newer(Path.home() / ".ansible", e.start)},
    "logs of the machine": lambda e: {"": b"-", **newer("/var/log", e.start)},
    "the checkout": lambda _: newer(CHECKOUT, 0, ("/.venv", "/.cache", "/.git", "/.mypy", "/.ruff", "/.pytest")),
}


def tls(folder: Path) -> tuple[Path, Path, tuple[bytes, ...]]:
    """(certificate, key, lines of the key)."""
    cert, key = folder / "canary.pem", folder / "canary.key"
    argv = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 90 -keyout {key} -out {cert}".split()
    subprocess.run(["openssl", *argv, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return cert, key, tuple(line for line in key.read_bytes().splitlines() if len(line) == 64)


@pytest.fixture(scope="module")
def evidence(host: StubHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """What is left when all has been said and done."""
    tmp, start = tmp_path_factory.mktemp("canaries"), time.time()
    own = {n: f"{prefix}canary-{n}-{secrets.token_hex(12)}" for n, prefix in
           (("service", "sk-"), ("engine", "sk-"), ("hub", "hf_"), ("refused", "hf_"), ("vault", ""), ("prompt", ""))}  # fmt: skip
    cert, key, lines = tls(tmp)
    words = {n: (v.encode(), base64.b64encode(v.encode())[:-4]) for n, v in own.items()}
    found = Evidence(host, {**words, "tls": lines}, start)
    declared = host.inventory / "host_vars/localhost.yml"
    before = declared.read_text()
    hub = None
    try:
        host.reset()
        (host.folder / "vault-password").write_text(own["vault"])
        model = tmp / "model"
        maker = str(CHECKOUT / "molecule/shared/files/make_model.py")
        subprocess.run([sys.executable, maker, str(model), "gated", "1"], check=True)
        (model / "config.json").write_bytes((host.folder / "model/config.json").read_bytes())
        script = str(CHECKOUT / "molecule/model_store_alternative/files/stand_in_hub.py")
        hub = subprocess.Popen(
            host._entered([sys.executable, "-c", HUB_SCRIPT, script, str(HUB), str(model)]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert hub.stdin and hub.stdout
        hub.stdin.write(f"{own['hub']}\n")
        hub.stdin.flush()
        assert hub.stdout.readline() == "ready\n"
        content = json.loads(before)
        content.pop("llm_service_keys")
        content["llm_gateway"] |= {"certificate": str(cert), "key": str(key)}
        content["llm_models_custom"][SERVICE]["sources"] = [{"hub": "acme/gated"}]
        content["llm_hub_endpoint"] = f"http://127.0.0.1:{HUB}"
        declared.write_text(json.dumps(content))
        vault(host, {"llm_service_keys": {SERVICE: own["service"]}, "llm_hub_token": own["refused"]})
        # The host's environment is the demo's, which has what fetches from a hub.
        (host.root / "venv/bin/python").write_text(f'#!/bin/sh\nexec {ROOT}/venv/bin/python "$@"\n')
        (host.root / "gateway").mkdir()
        (host.root / "gateway/engine-keys").write_text(f"{own['engine']}\n")
        (host.root / "gateway/engine-keys").chmod(0o400)
        work(found, own)
        yield found
    finally:
        if hub:
            hub.kill()
        declared.write_text(before)
        (host.inventory / "group_vars/all.yml").unlink(missing_ok=True)
        host.reset()


def vault(host: StubHost, content: Mapping[str, Any]) -> None:
    """The secrets as operators keep them."""
    path = host.inventory / "group_vars/all.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    command = [str(CHECKOUT / ".venv/bin/ansible-vault"), "encrypt", "--vault-password-file"]
    subprocess.run([*command, str(host.folder / "vault-password"), str(path)], check=True, capture_output=True)


def work(found: Evidence, own: Mapping[str, str]) -> None:
    """All that handles secrets."""
    host = found.host
    found.run("hub refuses", "site.yml").refused()
    vault(host, {"llm_service_keys": {SERVICE: own["service"]}, "llm_hub_token": own["hub"]})
    found.run("check", "site.yml", "--check").passed()
    found.run("deploy", "site.yml").passed()
    # The one place where a client's key is shown.
    create = ("-e", "llm_key_do=create", "-e", "llm_key_client=canary", "-e", f"llm_key_services={SERVICE}")
    made = found.run("created", "playbooks/keys.yml", *create).passed()
    shown = set(KEY_SHAPE.findall(found.said.pop("created").decode()))
    assert len(shown) == 1, "the new key, and no other"
    (client,) = shown
    assert len(re.findall(re.escape(client), made.stdout)) >= 1
    found.canaries = {**found.canaries, "client": (client.encode(),)}
    url = f"http://127.0.0.1:{PORT}/v1/chat/completions"
    asked = host._entered([sys.executable, "-c", ASK, url])
    with found.watched():
        subprocess.run(asked, input=f"{client} {own['prompt']}\n", text=True, check=True)
    found.run(
        "fail", "site.yml", changes={"smoke": {"question": "?", "answer": "Lyon"}, "args": {"max-model-len": 512}}
    )
    for verb in ("status", "keys", "usage", "clients"):
        found.run(f"verb {verb}", f"playbooks/{verb}.yml").passed()
    found.run("verb smoke", "playbooks/smoke.yml").refused()  # the stub knows one answer, and no Anthropic
    found.run("verb leaks", "playbooks/keys.yml", "-e", "llm_key_do=leaks")


@pytest.mark.parametrize("sink", SINKS)
def test_no_secret_is_in(evidence: Evidence, sink: str) -> None:
    content = SINKS[sink](evidence)
    assert content and any(content.values()), "nothing was looked at"
    leaked = {place: found for place, text in content.items() if (found := evidence.secrets_in(text))}
    assert not leaked, leaked


def test_secrets_are_in_their_homes_for_their_owner_alone(evidence: Evidence) -> None:
    root, homes = evidence.host.root, set()
    for path, text in newer(root, 0).items():
        place = str(Path(path).relative_to(root))
        if found := evidence.secrets_in(text):
            assert any(fnmatch(place, home) for home in HOMES), (place, found)
            assert Path(path).stat().st_mode & 0o777 == 0o400, place
            homes |= found
    assert homes == {"service", "engine", "tls"}, "they did go through, and were looked for rightly"


def test_a_deployment_that_fails_did_fail(evidence: Evidence) -> None:
    assert b"failed=1" in evidence.said["fail"]
    assert b"No key of" in evidence.said["verb leaks"]
