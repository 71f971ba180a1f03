"""playbooks/lock.yml against a real registry (Debian's docker-registry) and a stand-in for the hub, and what a lock causes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from ansible.module_utils.llm.fit import architecture

from tests.e2e.demo import CHECKOUT, Playbook, stand_in_hub

pytestmark = pytest.mark.e2e

TOKEN = "hf_token-of-the-test"
CONFIG = """\
version: 0.1
storage: {filesystem: {rootdirectory: /tmp/registry}}
http: {addr: ":5000"}
"""
OWN = """\
llm_accelerator: cpu
llm_root: {root}
llm_hub_token: {token}
llm_host_services: [tiny]
llm_services_custom:
  tiny: {{image: tiny, model: tiny, gpus: [], port: 5911}}
llm_images_custom:
  tiny: {{accelerator: cpu, sources: {sources}}}
  haproxy: {{sources: [{{pull: "{image}"}}]}}
llm_models_custom:
  tiny:
    sources: {hubs}
"""


class StandInHub(BaseHTTPRequestHandler):
    """Stand-in for the model hub, which can't be had in tests: says of a branch what the real one documents."""

    commits: dict[str, str] = {}  # noqa: RUF012 - set by each test: repository@branch -> commit

    def do_GET(self) -> None:
        """Answer for acme/tiny, for the gated acme/gated, and that nothing else exists."""
        _, _, path = self.path.partition("/api/models/")
        repository, _, branch = path.partition("/revision/")
        commit = self.commits.get(f"{repository}@{branch}")
        if repository == "acme/gated":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.answer(403 if known else 401, {}, "GatedRepo")
        elif commit:
            self.answer(200, {"id": repository, "sha": commit})
        else:
            self.answer(404, {}, "RevisionNotFound" if repository == "acme/tiny" else "RepoNotFound")

    def answer(self, status: int, content: dict[str, Any], code: str = "") -> None:
        """Send JSON, with the hub's code of what is wrong."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of the stand-in, which knows two branches of acme/tiny."""
    StandInHub.commits = {"acme/tiny@main": "a" * 40, "acme/tiny@v2": "b" * 40}
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInHub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Registry:
    """Debian's registry in a container, and images pushed to it. The images are of a few bytes."""

    def __init__(self, client: docker.DockerClient, address: str, container: Any) -> None:
        self.docker, self.address, self.container = client, address, container

    def push(self, tag: str, content: str) -> str:
        """Push an image and leave no copy here. Returns its id."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
        reference = f"{self.address}/acme/tiny"
        self.docker.api.import_image_from_data(packed.getvalue(), repository=reference, tag=tag)
        image = self.docker.images.get(f"{reference}:{tag}")
        said = self.docker.images.push(reference, tag=tag)
        assert "errorDetail" not in said, said
        self.docker.images.remove(image.id, force=True)
        return str(image.id)

    def digest(self, tag: str) -> str:
        """What the registry holds for a tag, read apart from the code under test."""
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        body = self.request("GET", tag, {"Accept": kind})
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def push_index(self, tag: str, of: str) -> str:
        """Push an OCI index over the image of another tag, as images for several architectures have one."""
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = self.request("GET", of, {"Accept": kind})
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        platform = {"architecture": "amd64", "os": "linux"}
        entry = {"mediaType": kind, "digest": digest, "size": len(manifest), "platform": platform}
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
        body = json.dumps(index).encode()
        self.request("PUT", tag, {"Content-Type": index["mediaType"]}, body)  # type: ignore[dict-item]
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def request(self, method: str, tag: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        """Body of one answer about a manifest."""
        url = f"http://{self.address}/v2/acme/tiny/manifests/{tag}"
        asked = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def registry(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of this test's own; afterwards neither it nor its images are here."""
    place = tmp_path_factory.mktemp("registry")
    place.chmod(0o755)
    got = ["apt-get", "-q", "download", "docker-registry"]
    if subprocess.run(got, cwd=place, check=False, capture_output=True).returncode:
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
        subprocess.run(got, cwd=place, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(next(place.glob("*.deb"))), str(place)], check=True)
    (place / "config.yml").write_text(CONFIG, encoding="utf-8")
    # An empty image with this machine's own libraries: what images a demo has made depends on its network.
    docker_client.api.import_image_from_data(b"\0" * 1024, repository="127.0.0.1/acme/tiny", tag="registry")
    binds = {str(place): {"bind": "/registry", "mode": "ro"}}
    binds |= {p: {"bind": p, "mode": "ro"} for p in ("/lib", "/lib64", "/usr/lib") if Path(p).exists()}
    container = docker_client.containers.run(
        "127.0.0.1/acme/tiny:registry",
        ["/registry/usr/bin/docker-registry", "serve", "/registry/config.yml"],
        detach=True,
        ports={"5000/tcp": ("127.0.0.1", None)},
        volumes=binds,
    )
    try:
        container.reload()
        address = f"127.0.0.1:{container.ports['5000/tcp'][0]['HostPort']}"
        _await(f"http://{address}/v2/", container)
        yield Registry(docker_client, address, container)
    finally:
        container.remove(force=True, v=True)
        for image in docker_client.images.list():
            names = [*image.tags, *(image.attrs["RepoDigests"] or [])]
            if any("/acme/tiny" in n for n in names):
                docker_client.images.remove(image.id, force=True)


def _await(url: str, container: Any) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            assert time.monotonic() < end, container.logs().decode()
            time.sleep(0.1)


class Locked:
    """An inventory of one host, and runs of playbooks on it."""

    def __init__(self, playbook: Playbook, folder: Path, hub: str) -> None:
        self.playbook, self.folder, self.hub = playbook, folder, hub
        self.file = folder / "group_vars/all/llm_lock.yml"

    def declare(self, image: str, *hubs: dict[str, str], archive: str = "") -> None:
        """Declare one service with an image, pulled or from an archive, and the sources of a model."""
        sources = json.dumps([{"pull": image}, *([{"archive": archive}] if archive else [])])
        root, models = self.folder / "root", json.dumps(hubs)
        text = OWN.format(root=root, token=TOKEN, image=image, sources=sources, hubs=models)
        (self.folder / "host_vars/localhost.yml").write_text(text, encoding="utf-8")

    def lock(self, *arguments: str) -> Any:
        """Run playbooks/lock.yml. It must not show the token."""
        run = self.playbook("-i", str(self.folder), "playbooks/lock.yml", *arguments, env={"HF_ENDPOINT": self.hub})
        assert TOKEN not in run.stdout
        return run

    def plan(self, *playbooks: str) -> Any:
        """What is planned, after the other stages given have run."""
        show = self.folder.parent / "show.yml"
        to = self.folder.parent / "plan.json"
        copy = {"content": "{{ llm_plan | to_json }}", "dest": str(to), "mode": "0600"}
        task = {"ansible.builtin.copy": copy, "changed_when": False}  # a report of this run
        show.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
        run = self.playbook("-i", str(self.folder), "playbooks/validate.yml", *playbooks, str(show)).passed()
        return run, json.loads(to.read_text(encoding="utf-8"))

    @property
    def content(self) -> Any:
        """The lock as YAML, None when there is none."""
        return yaml.safe_load(self.file.read_text(encoding="utf-8")) if self.file.exists() else None


@pytest.fixture
def locked(playbook: Playbook, tmp_path: Path, hub: str) -> Locked:
    """An inventory at a place of its own."""
    folder = tmp_path / "inventory"
    (folder / "host_vars").mkdir(parents=True)
    shutil.copy(CHECKOUT / "inventory/demo/hosts.yml", folder / "hosts.yml")
    return Locked(playbook, folder, hub)


@pytest.mark.fault(30, "hangs a registry whose image is there by its digest")
def test_a_locked_image_is_pulled_although_its_tag_moved_on(registry: Registry, locked: Locked) -> None:
    image = f"{registry.address}/acme/tiny:1"
    # An index, as images for several architectures have one. A second source gives the service's image a name of its own.
    first_id, first = registry.push("one", "first"), registry.push_index("1", "one")
    locked.declare(image, {"hub": "acme/tiny"}, {"hub": "acme/tiny", "revision": "v2"}, archive="/nowhere.tar")

    predicted = locked.lock("--check", "--diff").passed()
    assert predicted.changed == 1 and f'+    "{image}": "{first}"' in predicted.stdout and locked.content is None
    made = locked.lock().passed().says(f"{image}: locked to {first}")
    assert made.changed == 1 and made.tasks == [
        *("Judge the declaration", "Keep the plan", "Say what is declared"),
        *("Ask registries and the hub, and write the lock", "Say what is locked"),
    ]
    commits = {"acme/tiny@main": "a" * 40, "acme/tiny@v2": "b" * 40}
    written = {"llm_lock": {"images": {image: first}, "models": commits}}
    assert locked.content == written
    assert locked.lock().passed().changed == 0

    registry.push("1", "second")
    StandInHub.commits = {**commits, "acme/tiny@main": "c" * 40}
    second = registry.digest("1")
    assert second != first
    pulled, planned = locked.plan("playbooks/images.yml")
    own, gateway = planned["services"]["tiny"]["image"], planned["gateway"]["image"]
    assert own.startswith("llm/tiny:0-") and gateway == f"{image}@{first}"
    (model,) = planned["models"]
    assert model["folder"].endswith(f"/models/tiny/{'a' * 40}")
    assert [s["revision"] for s in model["sources"]] == ["a" * 40, "b" * 40]
    assert pulled.changed == 1
    assert [registry.docker.images.get(name).id for name in (own, gateway)] == [first_id] * 2
    with pytest.raises(docker.errors.ImageNotFound):
        registry.docker.images.get(image)
    registry.container.pause()  # a registry that does not answer any more
    again, _ = locked.plan("playbooks/images.yml")
    registry.container.unpause()
    assert again.changed == 0  # found by its digest, although Docker lists it without the tag

    assert locked.content == written
    assert locked.lock().passed().says(f"{image}: moved from {first} to {second}").changed == 1
    assert locked.content["llm_lock"]["models"]["acme/tiny@main"] == "c" * 40


def test_what_cannot_be_resolved_keeps_its_entry_and_is_said(registry: Registry, locked: Locked) -> None:
    image = f"{registry.address}/acme/tiny:2"
    registry.push("2", "unresolved")
    hubs = [
        {"hub": "acme/tiny"},
        {"hub": "acme/gated"},
        {"hub": "acme/missing"},
        {"hub": "acme/tiny", "revision": "v9"},
    ]
    locked.declare(image, *hubs)
    run = locked.lock().refused()
    place = f"({locked.folder}/host_vars/localhost.yml:"
    run.says("3 of 5 could not be resolved; the others are locked.", "llm_models.tiny.sources.1.hub " + place)
    run.says(f"acme/gated@main: is gated (403). Accept its terms at {locked.hub}/acme/gated, and set llm_hub_token")
    run.says("acme/missing@main: is not on the hub (404). Correct it", "has no such branch or tag. Correct `revision`")
    kept = locked.content
    assert kept["llm_lock"] == {"images": {image: registry.digest("2")}, "models": {"acme/tiny@main": "a" * 40}}

    # Nobody answers at the hub's address.
    locked.declare(image, {"hub": "acme/tiny"})
    locked.hub = "http://127.0.0.1:9"
    run = locked.lock().refused()
    run.says(
        "1 of 2 could not be resolved", "http://127.0.0.1:9 cannot be reached: ", "its old entry is kept. Check the"
    )
    assert locked.content == kept


def test_a_lock_that_is_malformed_or_behind_is_said(registry: Registry, locked: Locked) -> None:
    image = f"{registry.address}/acme/tiny:3"
    registry.push("3", "behind")
    locked.declare(image, {"hub": "acme/tiny"})
    locked.lock().passed()
    locked.declare(image.replace(":3", ":4"), {"hub": "acme/tiny"})
    run, planned = locked.plan()
    run.says(f"`{image.replace(':3', ':4')}` is not in the lock, and can change. Run playbooks/lock.yml")
    run.says(f"{locked.file}:7): locks `{image}`, which no catalog names. playbooks/lock.yml drops it")
    assert planned["services"]["tiny"]["verdict"] == "ok"
    before = locked.file.read_text(encoding="utf-8")
    locked.file.write_text(before.replace("sha256:", "sha512:"), encoding="utf-8")
    run = (
        locked.lock().refused().says(f"llm_lock.images ({locked.file}:", f"has `{image}`, which must be sha256: and 64")
    )
    assert run.tasks == ["Judge the declaration"]


SHAPED = """\
llm_accelerator: nvidia
llm_host_gpus: [{{index: 0, model: NVIDIA GeForce RTX 4090, memory: {memory}}}]
llm_host_services: [small]
llm_services_custom:
  small: {{image: vllm-openai, model: small, gpus: [0], port: 5911, args: {{max-model-len: 8192, max-num-seqs: 16}}}}
llm_images_custom:
  vllm-openai: {{sources: [{{archive: /nowhere.tar}}]}}
  haproxy: {{sources: [{{archive: /nowhere.tar}}]}}
llm_models_custom:
  small: {{size_gib: 0.3, sources: [{{hub: acme/tiny}}]}}
"""


@pytest.fixture
def files_hub(tmp_path: Path) -> Iterator[str]:
    """Address of the stand-in of scenario model_store_alternative, with a model of SmolLM2's shape whose weights are a hole."""
    kept = json.loads((CHECKOUT / "files/configs/smollm2-135m-instruct.json").read_text(encoding="utf-8"))
    model = architecture.read(kept["config"])
    header, at = {}, 0
    for tensor in architecture.tensors(model):
        for number in range(tensor.times):
            size = int(math.prod(tensor.shape) * architecture.BYTES[tensor.dtype])
            header[re.sub(r"\.\d+\.", f".{number}.", tensor.name)] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, at + size],
            }
            at += size
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(kept["config"]), encoding="utf-8")
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + at)
    with stand_in_hub(folder) as address:
        yield address


def test_a_lock_reads_the_shape_of_a_model_and_the_plan_judges_by_it(
    playbook: Playbook, tmp_path: Path, files_hub: str
) -> None:
    folder = tmp_path / "inventory"
    locked = Locked(playbook, folder, files_hub)
    (folder / "host_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_host: 192.0.2.1}}}\n", encoding="utf-8")
    own = folder / "host_vars/localhost.yml"

    def judged(memory: str) -> Any:
        own.write_text(SHAPED.format(memory=memory), encoding="utf-8")
        run = playbook("-i", str(folder), "playbooks/validate.yml")
        return run, json.loads((run.report / "plan.json").read_text(encoding="utf-8"))["services"]["small"]

    before, guessed = judged("24 GiB")
    assert before.passed() and guessed["fit"]["basis"] == "size" and guessed["kv_tokens"]["high"] is None

    facts = folder / "files/configs/small.json"
    locked.lock("--check", "--diff").passed().says('+ "source": "acme/tiny@')
    assert not facts.exists()
    locked.lock().passed()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{files_hub}/stand-in", timeout=30) as said:
        sent = json.loads(said.read())["sent"]["model.safetensors"]
    kept = json.loads(facts.read_text(encoding="utf-8"))
    assert sent < 2**17 < 2**27 < kept["bytes"], "the header alone has travelled, twice"
    assert locked.lock().passed().changed == 0

    read, estimate = judged("24 GiB")
    assert read.passed() and estimate["fit"]["basis"] == "checkpoint"
    weights = estimate["fit"]["parts_gib"]["weights"]
    assert weights["low"] <= kept["bytes"] / 2**30 <= weights["high"]
    assert 0 < estimate["kv_tokens"]["low"] <= estimate["kv_tokens"]["high"]

    small, refused = judged("400 MiB")
    small.refused().says("one request of 8,192 tokens does not fit", "from the model's files")
    assert refused["verdict"] == "refuse"
