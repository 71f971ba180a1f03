"""Programs that people use, configured by client_config and run for real against an engine.

The engine serves the small Qwen3 of tests/models with room for prompts of 20,000 tokens and more, on which that model was not
trained: its answers to them are nonsense. What is shown is that each program finds path, model and key and takes the streamed
answer; of Claude Code, whose prompt can be made short, also a right answer and a tool call carried out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.llm import clients

from tests import catalogs
from tests.clients import weather
from tests.e2e.demo import CHECKOUT
from tests.e2e.recorder import Asked, Recorder
from tests.models import make

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LOCKS = CHECKOUT / "tests" / "clients"
SERVICE, MODEL, KEY = "micro-qwen", "test-qwen", "sk-of-this-test-alone"
BOOT = 900  # seconds
QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."
LONGEST = 400  # seconds after which a hanging program is ended; no test measures time
CONTEXT = 131072
MCP = {"command": "python3", "args": [str(LOCKS / "weather.py")]}


@dataclass(frozen=True)
class Engine:
    """Where the service answers, with which key, and what its clients are told of it."""

    host: str
    port: int
    key: str
    facts: Mapping[str, Any]


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def engine(docker_client: docker.DockerClient) -> Iterator[Engine]:
    """A container of the engine's image with the model of service micro-qwen, room for long prompts, and an end of answers."""
    variables = catalogs.read("tests/models/inventory/group_vars/all.yml")
    service = variables["llm_services_custom"]["micro-qwen"]
    arguments = {
        **service["args"],
        "max-model-len": CONTEXT,
        "hf-overrides": json.dumps({"max_position_embeddings": CONTEXT}),
        "override-generation-config": json.dumps({"temperature": 0, "max_new_tokens": 96}),
        "served-model-name": MODEL,
        "api-key": KEY,
        "host": "0.0.0.0",
        "port": 8000,
    }
    flags = [part for k, v in arguments.items() for part in ([f"--{k}"] if v is True else [f"--{k}", str(v)])]
    container: Any = docker_client.containers.run(
        make.image(),
        ["/model", *flags],
        name="clients-engine",
        detach=True,
        environment={"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1", "HOME": "/tmp"},
        ports={"8000/tcp": ("127.0.0.1", None)},
        shm_size="1g",
        volumes={str(make.models()["qwen"]): {"bind": "/model", "mode": "ro"}},
    )
    try:
        container.reload()
        port = int(container.ports["8000/tcp"][0]["HostPort"])
        end = time.monotonic() + BOOT
        while not healthy(port):
            container.reload()
            assert container.status == "running" and time.monotonic() < end, container.logs(tail=30).decode()
            time.sleep(1)
        yield Engine(
            "127.0.0.1", port, KEY, clients.facts(MODEL, service["args"] | {"max-model-len": CONTEXT}, CONTEXT, False)
        )
    finally:
        container.remove(force=True)


def cached(name: str, locks: list[str], install: Callable[[Path], None]) -> Path:
    """A folder of the cache that is installed once for these locks."""
    digest = hashlib.sha256(b"".join((LOCKS / lock).read_bytes() for lock in locks)).hexdigest()[:12]
    folder = make.store().parent / "clients" / f"{name}-{digest}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for lock in locks:
            shutil.copy(LOCKS / lock, folder)
        install(folder)
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def programs() -> list[str]:
    """Folders with the programs, from their locks; Node and npm come from the distribution."""

    def npm(folder: Path) -> None:
        # Not `npm ci`: it refuses a lock without the same program's builds for other systems.
        options = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "install", *options], cwd=folder, check=True)

    def pip(folder: Path) -> None:
        subprocess.run(["python3.11", "-m", "venv", str(folder / "venv")], check=True)
        command = [str(folder / "venv/bin/pip"), "install", "--quiet", "--require-hashes", "-r", "aider-py311.txt"]
        subprocess.run(command, cwd=folder, check=True)

    if not shutil.which("npm"):
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "nodejs", "npm"], check=True)
    node = cached("npm", ["package.json", "package-lock.json"], npm)
    return [str(node / "node_modules/.bin"), str(cached("aider", ["aider-py311.txt"], pip) / "venv/bin")]


@dataclass
class Ran:
    """One run of a program: what it printed, what its service was asked, and the files that configured it."""

    output: str
    asked: list[Asked]
    files: dict[str, str]

    def answered(self, path: str) -> list[Asked]:
        return [a for a in self.asked if a.path.partition("?")[0] == path and a.method == "POST"]


@dataclass(frozen=True)
class Program:
    """How a program is run without a person: its files go to `places`; `tune` adds our tool and leaves its own tools out."""

    name: str
    command: str
    path: str
    places: Mapping[str, str] = field(default_factory=dict)
    tune: Callable[[Path], None] = lambda _: None
    tool: bool = False  # whether a call of our tool is demanded of it


def _write(name: str, value: Any) -> Callable[[Path], None]:
    def tune(home: Path) -> None:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(json.dumps(value), encoding="utf-8")

    return tune


PROGRAMS = [
    Program(
        "claude-code",
        "MCP_CONNECTION_NONBLOCKING=0 MCP_TIMEOUT=120000 "
        'claude -p "$QUESTION" --tools "" --system-prompt Answer. --mcp-config "$HOME/mcp.json" '
        "--allowedTools mcp__weather__get_weather",
        "/v1/messages",
        {"settings.json": ".claude/settings.json"},
        _write("mcp.json", {"mcpServers": {"weather": {**MCP, "alwaysLoad": True}}}),  # it does not begin without it
        tool=True,
    ),
    Program(
        "codex",
        'codex exec --skip-git-repo-check "$QUESTION"',
        "/v1/responses",
        {"config.toml": ".codex/config.toml"},
    ),
    Program(
        "opencode",
        'opencode run "$QUESTION"',
        "/v1/chat/completions",
        {"opencode.json": ".config/opencode/opencode.json"},
    ),
    Program("kilo", 'kilo run "$QUESTION"', "/v1/chat/completions", {"kilo.json": ".config/kilo/kilo.json"}),
    Program(
        "qwen-code",
        'qwen "$QUESTION" --system-prompt Answer.',
        "/v1/chat/completions",
        {"settings.json": ".qwen/settings.json"},
    ),
    Program(
        "continue",
        'cn --config "$HOME/.continue/config.yaml" -p "$QUESTION"',
        "/v1/chat/completions",
        {"config.yaml": ".continue/config.yaml"},
    ),
    Program(
        "cline",
        'sh "$HOME/setup.sh" && cline --retries 1 --system Answer. "$QUESTION"',
        "/v1/chat/completions",
        {"setup.sh": "setup.sh"},
    ),
    Program(
        "aider",
        'sh ./start.sh --message "$QUESTION" --yes-always --no-git --map-tokens 0',
        "/v1/chat/completions",
        {name: f"work/{name}" for name in (".aider.conf.yml", ".aider.model.metadata.json", "start.sh")},
    ),
]


def run(program: Program, engine: Engine, programs: list[str], home: Path) -> Ran:
    """Run a program as a person who has put its files where docs/clients.md says, through a recording proxy."""
    work = home / "work"
    work.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=work, check=True)
    with Recorder(engine.host, engine.port, insist="get_weather" if program.tool else "") as recorder:
        what = clients.served(SERVICE, recorder.url, engine.facts)
        files = clients.CLIENTS[program.name](what)
        for name, text in files.items():
            place = home / program.places[name]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        program.tune(home)
        environment = {
            "HOME": str(home),
            "PATH": ":".join([*programs, os.environ["PATH"]]),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "QUESTION": QUESTION,
            what.key_variable: engine.key,
        }
        done = subprocess.run(
            ["sh", "-c", program.command],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        return Ran(done.stdout, list(recorder.asked), files)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_a_program_finds_path_model_and_key_and_takes_the_stream(
    program: Program, engine: Engine, programs: list[str], tmp_path: Path
) -> None:
    ran = run(program, engine, programs, tmp_path)
    answered = ran.answered(program.path)
    told = [(a.method, a.path, a.status, a.answer[-200:] if a.status != 200 else b"") for a in ran.asked]
    assert answered and all(a.status == 200 for a in answered), (told, ran.output[-2000:])
    for asked in answered:
        assert asked.bearer == engine.key, "the key has to come as bearer"
        assert asked.body["model"] == engine.facts["model"]
        assert asked.body["stream"] is True and asked.streamed and asked.pieces > 1
        most = asked.body.get("max_tokens") or asked.body.get("max_output_tokens") or 0
        assert most <= clients.LARGEST_OUTPUT
    assert {a.path.partition("?")[0] for a in ran.asked if a.method == "POST"} == {program.path}
    assert not any(engine.key in text for text in ran.files.values())
    assert "x-anthropic-billing-header" not in json.dumps(answered[0].body)
    if program.tool:
        later = json.dumps([a.body for a in answered[1:]])
        assert weather.ANSWER in later, (told, json.dumps(answered[-1].body)[-1500:], ran.output[-2000:])


def test_claude_code_gets_the_right_answer(engine: Engine, programs: list[str], tmp_path: Path) -> None:
    """Its prompt can be made short enough for the small model."""
    (claude,) = (p for p in PROGRAMS if p.name == "claude-code")
    short = Program(
        claude.name,
        'claude -p "$QUESTION" --tools "" --system-prompt Answer.',
        claude.path,
        claude.places,
    )
    ran = run(short, engine, programs, tmp_path)
    assert ran.output.strip() == ANSWER, ran.asked
