"""A gateway of its own on this machine, before STUBS of engines: role gateway's configuration, program and limits, in real HAProxy.

For tests of the gateway alone and for benchmarks/gateway.py. Needs Docker and the demo's images; touches nothing of a deployment.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.names import GATEWAY_IMAGE
from ansible.module_utils.llm.gateway import haproxy
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.gateway import routes as gateway_routes
from ansible.module_utils.llm.plan import compose

from tests import catalogs, rendered

UID = 64001
HTTPS = 8443
PROGRAM = catalogs.ROOT / "tests/stub/light_engine.py"


# The certificate was made a moment ago; what is asked for is not whether it is right.
_UNCHECKED = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _UNCHECKED)


def docker(*arguments: str) -> str:
    """Output of a docker command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout.strip()


def image(name: str) -> str:
    """An image of the catalog, by what it is called on this machine."""
    return compose.image_ref(catalogs.declared("demo").images[name])


def address(container: str) -> str:
    """Where a container is reached."""
    return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


def tell(container: str, **content: Any) -> None:
    """Send an engine something past the gateway; see light_engine.py."""
    asked = urllib.request.Request(f"http://{address(container)}:8000/", json.dumps(content).encode())
    _OPENER.open(asked, timeout=60).close()


class Gateway:
    """The gateway, while it stands; `engines`: containers of the stubs by service."""

    def __init__(self, folder: Path, name: str, engines: Mapping[str, str]) -> None:
        self.root, self.folder, self.container, self.engines = folder, folder / "gateway", f"{name}-gateway", engines
        self.address = ""

    def ask(
        self, port: int, key: str, body: str = "{}", path: str = "/v1/completions", host: str = "localhost"
    ) -> tuple[int, str, Mapping[str, str]]:
        """Status, text and headers of one request."""
        headers = {"Host": host, "Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        scheme = "https" if port == HTTPS else "http"
        asked = urllib.request.Request(
            f"{scheme}://{self.address}:{port}{path}", body.encode() if body else None, headers
        )
        try:
            with _OPENER.open(asked, timeout=120) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), dict(error.headers)

    def say(self, command: str) -> str:
        """What the running HAProxy answers to a command."""
        answer = haproxy.say(self.folder, command)
        assert answer is not None, docker("logs", "--tail", "20", self.container)
        return answer

    def await_ready(self, ports: Iterable[int]) -> None:
        """Wait until it has found all its engines."""
        end = time.monotonic() + 60
        for port in ports:
            while not self._answers(port):
                assert time.monotonic() < end, docker("logs", "--tail", "20", self.container)
                time.sleep(0.1)

    def _answers(self, port: int) -> bool:
        try:
            return self.ask(port, "", "", "/health")[0] == 200
        except OSError:
            return False


@contextmanager
def standing(
    routes: Sequence[Mapping[str, Any]],
    service_keys: Mapping[str, Sequence[str]],
    keys: Sequence[gateway_keys.ClientKey] = (),
    stalled: int = 0,
    **others: Any,
) -> Iterator[Gateway]:
    """A gateway with these routes (of the plan, less `container`), each before a stub, for the time of a with block.

    stalled: seconds without a token after which an engine of several is set aside, and is looked for five times a second; 0 leaves
    both as they are. others: what of the plan's values (gateway_plan.values) is to be another one.
    """
    name = f"llm-gateway-{os.getpid()}"
    engines = {r["service"]: f"{name}-{r['service']}" for r in routes}
    with tempfile.TemporaryDirectory() as place:
        found = Gateway(Path(place), name, engines)
        own = {"progress_timeout": stalled} if stalled else {}
        named: Any = [{**r, **own, "container": engines[r["service"]]} for r in routes]
        file = _configure(found, name, named, service_keys, keys, others)
        if stalled:
            watch = found.folder / "etc/door.lua"
            text = watch.read_text(encoding="utf-8")
            assert text.count("LOOK_EVERY = 5000 ") == 1
            files.write(watch, text.replace("LOOK_EVERY = 5000 ", "LOOK_EVERY = 200 "), 0o400, UID)
        docker("network", "create", "--internal", name)
        try:
            for service, container in engines.items():
                program = ["--volume", f"{PROGRAM}:/engine.py:ro", "--entrypoint", "python3", image("vllm-cpu")]
                docker("run", "--detach", "--name", container, "--network", name, *program, "/engine.py", service)
            docker("compose", "--file", str(file), "up", "--detach", "--no-build", "--pull", "never")
            found.address = address(found.container)
            found.await_ready(r["port"] for r in routes)
            yield found
        finally:
            docker("rm", "--force", found.container, *engines.values())
            docker("network", "rm", name)


def _configure(
    found: Gateway,
    name: str,
    routes: Any,
    service_keys: Mapping[str, Sequence[str]],
    keys: Sequence[gateway_keys.ClientKey],
    others: Mapping[str, Any],
) -> Path:
    """Write what the gateway reads, and its compose file; returns that."""
    declared = catalogs.declared("demo", gateway={"https_port": HTTPS, "http_port": 0})
    given = {
        "gateway_root": str(found.root),
        "gateway_image": image(GATEWAY_IMAGE),
        "gateway_uid": UID,
    }
    etc, backends = found.folder / "etc", gateway_routes.backends(routes)
    texts = {
        "haproxy.cfg": rendered.gateway(declared, routes, "haproxy.cfg.j2", others, **given),
        "door.lua": rendered.gateway(declared, routes, "door.lua.j2", others, **given),
        "maps/keys.map": gateway_keys.key_map(keys, service_keys),
        "maps/models.map": "".join(f"{model} {p['name']}\n" for p in backends for model in p["models"]),
        "maps/engines.map": "",
        "maps/returns.map": "",
        "tls/door.pem": _certificate(found.root),
    }
    for file, text in texts.items():
        files.write(etc / file, text, 0o400, UID)
    run = found.folder / "run"
    run.mkdir(0o700)
    os.chown(run, UID, UID)
    document = yaml.safe_load(rendered.gateway(declared, routes, "compose.yml.j2", others, **given))
    document |= {"name": name, "networks": {name: {"external": True}}}
    del document["services"]["gateway"]["labels"]  # it is no deployment's
    document["services"]["gateway"] |= {"container_name": found.container, "networks": [name], "ports": []}
    files.write(found.root / "compose.yml", yaml.safe_dump(document))
    return found.root / "compose.yml"


def _certificate(folder: Path) -> str:
    """A certificate that nobody trusts, and its key."""
    made = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=gateway",
    ]
    subprocess.run(["openssl", *made, "-out", "pem", "-keyout", "key"], cwd=folder, capture_output=True, check=True)
    return (folder / "pem").read_text(encoding="utf-8") + (folder / "key").read_text(encoding="utf-8")
