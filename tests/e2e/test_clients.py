"""Programs that people use, configured by client_config and run for real against an engine.

The engine serves the small Qwen3 of tests/models with room for prompts of 20,000 tokens and more, on which that model was not
trained: its answers to them are nonsense. What is shown is that each program finds path, model and key and takes the streamed
answer; of Claude Code, whose prompt can be made short, also a right answer and a tool call carried out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.llm.clients import programs as client_programs

from tests import catalogs
from tests.clients import weather
from tests.e2e.demo import CHECKOUT, request
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
        return request(f"http://127.0.0.1:{port}/health")[0] == 200
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
            "127.0.0.1",
            port,
            KEY,
            client_programs.facts(MODEL, service["args"] | {"max-model-len": CONTEXT}, CONTEXT, False),
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


def pip(folder: Path, *what: str) -> None:
    """Install what a lock holds into a new environment of this folder."""
    subprocess.run(["python3.11", "-m", "venv", str(folder / "venv")], check=True)
    command = [str(folder / "venv/bin/pip"), "install", "--quiet", "--require-hashes", *what]
    subprocess.run(command, cwd=folder, check=True)


@pytest.fixture(scope="session")
def programs() -> list[str]:
    """Folders with the programs, from their locks; Node and npm come from the distribution."""

    def npm(folder: Path) -> None:
        # Not `npm ci`: it refuses a lock without the same program's builds for other systems.
        options = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "install", *options], cwd=folder, check=True)

    if not shutil.which("npm"):
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "nodejs", "npm"], check=True)
    node = cached("npm", ["package.json", "package-lock.json"], npm)
    aider = cached("aider", ["aider-py311.txt"], lambda folder: pip(folder, "-r", "aider-py311.txt"))
    return [str(node / "node_modules/.bin"), str(aider / "venv/bin")]


@pytest.fixture(scope="session")
def webui() -> Path:
    """Open WebUI's own command, from its lock. That names no PyTorch: which build there is, is for the machine to say."""

    def install(folder: Path) -> None:
        pip(folder, "--no-deps", "-r", "open-webui-py311.txt")
        (torch,) = [line for line in (LOCKS / "open-webui.in").read_text().splitlines() if line.startswith("torch==")]
        subprocess.run([str(folder / "venv/bin/pip"), "install", "--quiet", torch], cwd=folder, check=True)

    locks = ["open-webui.in", "open-webui-py311.txt"]
    return cached("open-webui", locks, install) / "venv/bin/open-webui"


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


def _of(home: Path) -> list[int]:
    """Processes with this home, whoever is their parent by now: some programs leave one behind."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if f"HOME={home}".encode() in environment:
            found.append(int(process.name))
    return found


def end_all(home: Path) -> None:
    """End what a program has left running: nobody else's processes have its home."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in _of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sent)
        end = time.monotonic() + 60
        while (left := _of(home)) and time.monotonic() < end:
            time.sleep(0.1)
        if not left:
            return
    raise AssertionError(f"processes {left} do not end")


def run(program: Program, engine: Engine, programs: list[str], home: Path) -> Ran:
    """Run a program as a person who has put its files where docs/clients.md says, through a recording proxy."""
    work = home / "work"
    work.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=work, check=True)
    with Recorder(engine.host, engine.port, insist="get_weather" if program.tool else "") as recorder:
        what = client_programs.served(SERVICE, recorder.url, engine.facts)
        files = client_programs.CLIENTS[program.name](what)
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
        try:
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
        finally:
            end_all(home)
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
        assert most <= client_programs.LARGEST_OUTPUT
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


# What keeps it from looking for models and versions elsewhere; and where it writes.
OFFLINE = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "false", "DO_NOT_TRACK": "true"}


def filled_in(home: Path, file: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment that Compose makes of an env_file."""
    (home / "open-webui.env").write_text(file, encoding="utf-8")
    service = {"image": "open-webui", "env_file": ["open-webui.env"]}
    (home / "compose.yml").write_text(json.dumps({"services": {"open-webui": service}}), encoding="utf-8")
    command = ["docker", "compose", "--file", str(home / "compose.yml"), "config", "--format", "json"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)["services"]["open-webui"]["environment"]
    return found


@contextlib.contextmanager
def open_webui(command: Path, home: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Its address, while it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [str(command), "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=home,
            env={"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **OFFLINE, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + LONGEST
        while not healthy(port):
            assert server.poll() is None and time.monotonic() < end, (home / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(60)
        end_all(home)


def test_open_webui_finds_path_model_and_key_and_passes_the_stream_on(
    engine: Engine, webui: Path, tmp_path: Path
) -> None:
    """The server that its package installs; a person's browser is a client of the same API."""
    with Recorder(engine.host, engine.port) as recorder:
        what = client_programs.served(SERVICE, recorder.url, engine.facts)
        (file,) = client_programs.CLIENTS["open-webui"](what).values()
        assert engine.key not in file
        environment = filled_in(tmp_path, file, {what.key_variable: engine.key})
        environment |= {"DATA_DIR": str(tmp_path / "data"), "WEBUI_SECRET_KEY": "of-this-test-alone"}
        with open_webui(webui, tmp_path, environment) as api:
            person = {"name": "First", "email": "first@example.org", "password": "Of-this-test-4lone"}
            token = json.loads(request(f"{api}/v1/auths/signup", body=person)[1])["token"]
            headers = {"Authorization": f"Bearer {token}"}
            listed = json.loads(request(f"{api}/models", headers)[1])["data"]
            chosen = json.loads(request(f"{api}/config", headers)[1])["default_models"]
            messages = [{"role": "user", "content": QUESTION}]
            body = {"model": MODEL, "stream": True, "messages": messages}
            status, text = request(f"{api}/chat/completions", headers, body)
            refused = request(f"{api}/chat/completions", None, body)[0]
    assert [model["id"] for model in listed] == [MODEL] and chosen == MODEL
    assert status == 200 and refused == 401
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    said = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    assert "".join(said).strip() == ANSWER and len([piece for piece in said if piece]) > 1
    told = [(a.method, a.path, a.status) for a in recorder.asked]
    assert {(method, path) for method, path, _ in told} == {("GET", "/v1/models"), ("POST", "/v1/chat/completions")}
    assert all(a.bearer == engine.key and a.status == 200 for a in recorder.asked), told
    (asked,) = (a for a in recorder.asked if a.method == "POST")
    assert asked.body["model"] == MODEL and asked.body["stream"] is True and asked.streamed and asked.pieces > 1
    assert asked.body["max_tokens"] == what.output
