"""What is served wrong has to fail the smoke test: real engines, each started wrong in one thing, and the check that catches it.

The engines are started without this project, as containers of their own. What is served wrong is asked what a release has to pass
before it serves (depth gate); what is served right, all that playbooks/smoke.yml asks.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import llm_smoke
import pytest
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.engine import judge, verdict
from ansible.module_utils.llm.engine.judge import known
from ansible.module_utils.llm.plan import compose

from tests import catalogs
from tests.e2e.demo import POSITIONS, model_folder, request
from tests.models import make

# Boots of a minute and more on two cores.
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DECLARED = catalogs.read("tests/models/inventory/group_vars/all.yml")
KEY = "k-of-the-mutations"
BOOT = 900  # seconds in which an engine has to be ready; no test measures time
FLAT = "{% for m in messages %}{{ m.role }} {% endfor %}"  # a template that tells the roles and forgets what was said


@dataclass(frozen=True)
class Mutation:
    """An engine as declared for `service` but for one thing, and checks of which one at least must fail.

    flags: changed ones, None leaves one out. model: what makes its folder another one. told: flags that the asking
    side believes in. name: the model that clients ask for.
    """

    service: str
    caught_by: frozenset[str]
    flags: dict[str, Any] = field(default_factory=dict)
    model: Callable[[Path, Path], None] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    name: str = ""


def garbage(source: Path, target: Path) -> None:
    """Weights of the right shape and without sense: the file's header is kept, every number is a random small one."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / "model.safetensors"
    held = file.read_bytes()
    (size,) = struct.unpack("<Q", held[:8])
    body = bytearray(os.urandom(len(held) - 8 - size))
    body[1::2] = bytes(0x3C | (b & 0x80) for b in body[1::2])  # bfloat16 of a hundredth or so, of either sign
    file.write_bytes(held[: 8 + size] + bytes(body))


def template(source: Path, target: Path) -> None:
    """A chat template that forgets what was said."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "chat_template.jinja").write_text(FLAT, encoding="utf-8")


def dead(source: Path, target: Path) -> None:
    """A shape that the CPU's attention has no code for: it boots, is healthy, and dies of the first request."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "kv_lora_rank": 256}), encoding="utf-8")


CHUNKED = {"max-num-batched-tokens": 512}  # a prompt longer than what is read at once fits into the context this way
RIGHT = {
    "micro-glm": {},
    "micro-qwen": CHUNKED,
}  # with MLA the CPU build reads every prompt at once, whatever it is told
MUTATIONS = {
    "wrong model name": Mutation("micro-qwen", frozenset({"models"}), CHUNKED, name="another"),
    "wrong tool parser": Mutation("micro-qwen", frozenset({"tool_auto"}), {"tool-call-parser": "glm47"}),
    "no reasoning parser": Mutation(
        "micro-qwen", frozenset({"answer"}), {"reasoning-parser": None}, told={"reasoning-parser": None}
    ),
    "broken chat template": Mutation("micro-qwen", frozenset({"answer"}), model=template),
    "garbage weights": Mutation("micro-qwen", frozenset({"answer"}), model=garbage),
    "other positions": Mutation("micro-cpu", frozenset({"answer"}), {"hf-overrides": POSITIONS}),
    "dies of the first request": Mutation("micro-glm", frozenset({"answer"}), {"load-format": "dummy"}, model=dead),
}


@dataclass(frozen=True)
class Served:
    """A service as it is declared: the name of its model for clients, flags, the model's folder, what it is asked."""

    name: str
    args: dict[str, Any]
    folder: Path
    asked: dict[str, Any]


def served(name: str) -> Served:
    if name == "micro-cpu":
        demo = catalogs.declared("demo")
        service, model = demo.services[name], demo.models[demo.services[name].model]
        asked = known(model.smoke, service.smoke, service.args, context=model.context, vision=False)
        return Served(service.served_model_name, dict(service.args), model_folder(), asked)
    declared = DECLARED["llm_services_custom"][name]
    model = DECLARED["llm_models_custom"][declared["model"]]
    folder = make.models()[declared["model"].removeprefix("test-")]
    asked = known(
        model.get("smoke", {}), declared.get("smoke", {}), declared["args"], context=model["context"], vision=False
    )
    return Served(declared.get("served_model_name", declared["model"]), dict(declared["args"]), folder, asked)


Start = Callable[[str, Served, dict[str, Any], Path], str]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start an engine of these flags, in place of the last one if it was another; gives its address once it is ready."""
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock", version="1.41")
    running: dict[tuple[str, ...], Any] = {}
    image = compose.image_ref(catalogs.declared("demo").images["vllm-cpu"])

    def end() -> None:
        while running:
            running.popitem()[1].remove(force=True)

    def run(name: str, of: Served, flags: dict[str, Any], folder: Path) -> str:
        argv = ["/model", "--host", "0.0.0.0", "--port", "8000", "--api-key", KEY]
        for flag, value in {"served-model-name": name, **of.args, **flags}.items():
            argv += _flag(flag, value)
        same = (*argv, str(folder))
        if same not in running:
            end()
            running[same] = client.containers.run(
                image,
                argv,
                detach=True,
                mem_limit="8g",
                shm_size="1g",
                environment={"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "HOME": "/tmp"},
                volumes={str(folder): {"bind": "/model", "mode": "ro"}},
            )
        container, last = running[same], time.monotonic() + BOOT
        while True:
            container.reload()
            log = container.logs(tail=30).decode(errors="replace")
            assert container.status == "running", log
            address = f"http://{container.attrs['NetworkSettings']['Networks']['bridge']['IPAddress']}:8000"
            if status(f"{address}/health") == 200:
                return address
            assert time.monotonic() < last, log
            time.sleep(0.5)

    yield run
    end()
    client.close()


def _flag(flag: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]


def status(url: str) -> int:
    try:
        return request(url)[0]
    except OSError:
        return 0


def parameters(address: str, name: str, of: Served, told: dict[str, Any]) -> dict[str, Any]:
    """Options of the module for a service of these flags."""
    args = {key: value for key, value in {**of.args, **told}.items() if value is not None}
    return {
        "max_tokens": 512,
        "timeout": 120,
        "unable": {},
        **of.asked,
        "accelerator": "cpu",
        "catalog_model": "",
        "release": "",
        "base_url": f"{address}/v1",
        "health_url": None,
        "metrics_url": f"{address}/metrics",
        "model": name,
        "args": args,
        "wait": 0,
    }


def ask(address: str, name: str, of: Served, told: dict[str, Any], depth: str = "gate") -> list[verdict.CheckResult]:
    """The checks that apply to a service of these flags, asked as the module does."""
    params = parameters(address, name, of, told)
    asked = judge.applying(params["args"], depth, room=params["context"], needle=params["needle"])
    chosen = [a for a in asked if a.id not in params["unable"]]
    return llm_smoke.run(llm_smoke.make_service(params, KEY, None), chosen, Progress(None), lambda _checks: None)


def told(checks: list[verdict.CheckResult]) -> str:
    return "\n".join(f"{'ok ' if c['ok'] else 'BAD'} {c['id']} {c['seconds']} {c['evidence']}" for c in checks)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_served_right_passes_every_check(name: str, start: Start) -> None:
    of = served(name)
    checks = ask(start(name, of, RIGHT[name], of.folder), name, of, RIGHT[name], "full")
    print(told(checks))
    assert {c["id"] for c in checks if not c["ok"]} == set(), told(checks)
    assert ("chunked_prefill" in {c["id"] for c in checks}) == bool(RIGHT[name])


@pytest.mark.parametrize("what", MUTATIONS)
def test_what_is_served_wrong_fails(what: str, start: Start, tmp_path: Path) -> None:
    mutation = MUTATIONS[what]
    of, folder = served(mutation.service), tmp_path / "model"
    if mutation.model:
        mutation.model(of.folder, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    address = start(mutation.service, of, mutation.flags, folder if mutation.model else of.folder)
    assert status(f"{address}/health") == 200, "it is to be caught by its answers, not by being down"
    checks = ask(address, mutation.name or mutation.service, of, mutation.told)
    print(told(checks))
    failed = {c["id"] for c in checks if not c["ok"]}
    assert mutation.caught_by <= failed, told(checks)
    assert "health" not in failed
    assert all(c["remedy"] for c in checks if not c["ok"])
