"""Every service of the catalog, put to the argument parser, the registries and the configuration loader of real vLLMs.

One container a version answers for all: the engine image of the catalog (or the one that LLM_TEST_ENGINE_IMAGE names), and
the same with vLLM 0.33's own wheel in front, which is built for CUDA and sees no device here. What is in the wheel besides
Python is left out: it could not be loaded beside torch for the CPU.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.images import images
from ansible.module_utils.llm.plan import compose

from tests import catalogs
from tests.models import make

CHECK = catalogs.ROOT / "roles/vllm_service/files/engine_check.py"
WHEEL = "0.33.0"
ENGINES = ("image", WHEEL)
ARGV = ["/model", "--served-model-name", "x", "--config", compose.SECRET]
TOOLS = ["--enable-auto-tool-choice", "--tool-call-parser"]

TOOL_PARSER = """
from vllm.tool_parsers import ToolParser, ToolParserManager

@ToolParserManager.register_module("mine")
class Mine(ToolParser):
    pass
"""
MIDDLEWARE = """
class Log:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""
PLUGGED = [
    *("--tool-parser-plugin", "/plugins/mine.py", *TOOLS, "mine"),
    *("--middleware", "log.Log", "--chat-template", "/plugins/chat.jinja"),
]
PLUGINS = {"mine.py": TOOL_PARSER, "log.py": MIDDLEWARE, "chat.jinja": "{{ messages }}{{ tools }}"}
# What must be refused, so that a check that lets everything pass is noticed: name -> (arguments, environment, finding).
BAD: dict[str, tuple[list[str], dict[str, str], tuple[str, str]]] = {
    "gone-flag": (["--swap-space", "4"], {}, ("flag-unknown", "args.swap-space")),
    "ambiguous-flag": (["--device", "cuda"], {}, ("flag-unknown", "args.device")),
    "old-syntax": (["--limit-mm-per-prompt", "image=2"], {}, ("flag-value", "args.limit-mm-per-prompt")),
    "old-key": (["--compilation-config", '{"level": 3}'], {}, ("flag-value", "args.compilation-config")),
    "word": (["--dtype", "halff"], {}, ("flag-value", "args.dtype")),
    "tool-parser": ([*TOOLS, "hermess"], {}, ("parser-unknown", "args.tool-call-parser")),
    "reasoning-parser": (["--reasoning-parser", "glm46"], {}, ("parser-unknown", "args.reasoning-parser")),
    "no-tool-parser": (["--enable-auto-tool-choice"], {}, ("command", "args")),
    "one-word-config": (["--config=/x.yml"], {}, ("config-ignored", "args.config")),
    "env-value": (
        [],
        {"VLLM_FLOAT32_MATMUL_PRECISION": "meduim"},
        ("env-value", "env.VLLM_FLOAT32_MATMUL_PRECISION"),
    ),
    "env-name": ([], {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}, ("env-unknown", "env.VLLM_ATTENTION_BACKEND")),
    "env-fatal": (["--fail-on-environ-validation"], {"VLLM_USE_V1": "1"}, ("env-unknown", "env.VLLM_USE_V1")),
    # The parser that `plugged` registers belongs to it alone.
    "not-plugged": ([*TOOLS, "mine"], {}, ("parser-unknown", "args.tool-call-parser")),
}
WARNED: dict[str, tuple[list[str], dict[str, str], tuple[str, str]]] = {
    "short-flag": (["--max-num-seq", "4"], {}, ("flag-abbreviated", "args.max-num-seq"))
}

PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
UNTRUSTED = {
    "architectures": ["MineForCausalLM"],
    "model_type": "mine",
    "auto_map": {"AutoConfig": "configuration_mine.C"},
}
# A tokenizer of words, which lacks the marks that parsers look for.
WORDS: dict[str, Any] = {
    "version": "1.0",
    "model": {
        "type": "WordLevel",
        "vocab": {w: n for n, w in enumerate(("What", "is", "the", "capital", "of", "France", "?", "<unk>"))},
        "unk_token": "<unk>",
    },
    "pre_tokenizer": {"type": "Whitespace"},
    "added_tokens": [],
    "normalizer": None,
    "post_processor": None,
    "decoder": None,
    "truncation": None,
    "padding": None,
}
# Models with something wrong: name -> (family it is made from, changed files (None: left out), arguments, finding).
# Those without a family are known by their config.json alone.
MODELS: dict[str, tuple[str, dict[str, str | None], list[str], tuple[str, str, str]]] = {
    "too-long": ("qwen", {}, ["--max-model-len", "999999"], ("max-model-len", "error", "args.max-model-len")),
    "no-tokenizer": (
        "qwen",
        {"tokenizer.json": None, "tokenizer_config.json": None},
        [],
        ("tokenizer", "error", "model"),
    ),
    "broken-tokenizer": ("qwen", {"tokenizer.json": "{"}, [], ("tokenizer", "error", "model")),
    "no-template": ("qwen", {"chat_template.jinja": None}, [], ("template-missing", "error", "model")),
    "no-tools": (
        "qwen",
        {"chat_template.jinja": PLAIN_TEMPLATE},
        [*TOOLS, "hermes"],
        ("template-incomplete", "error", "model"),
    ),
    "broken-template": (
        "qwen",
        {"chat_template.jinja": "{{ nowhere.x.y }}"},
        [],
        ("template-broken", "error", "model"),
    ),
    "no-system": (
        "qwen",
        {
            "chat_template.jinja": "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}{{ messages }}"
        },
        [],
        ("template-broken", "warn", "model"),
    ),
    "no-json": ("qwen", {"config.json": "{"}, [], ("model-refused", "error", "model")),
    "no-generation": ("qwen", {"generation_config.json": "{"}, [], ("generation-config", "error", "model")),
    "no-sampling": (
        "qwen",
        {},
        ["--generation-config", "/nowhere"],
        ("generation-config", "error", "args.generation-config"),
    ),
    "unfit-parser": (
        "qwen",
        {
            "tokenizer.json": json.dumps(WORDS),
            "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}',
        },
        ["--reasoning-parser", "deepseek_r1"],
        ("parser-unfit", "error", "args.reasoning-parser"),
    ),
    "unknown": (
        "",
        {"config.json": json.dumps({"architectures": ["Qwen33ForCausalLM"], "model_type": "qwen33"})},
        [],
        ("architecture-unknown", "error", "model"),
    ),
    "untrusted": (
        "qwen",
        {"config.json": json.dumps(UNTRUSTED), "configuration_mine.py": ""},
        [],
        ("remote-code", "error", "args.trust-remote-code"),
    ),
}

DECLARED = catalogs.declared("demo")
VISION = [s.name for s in DECLARED.services.values() if DECLARED.models[s.model].vision]


def image() -> str:
    """The engine image, which must be on this machine."""
    wanted = os.environ.get("LLM_TEST_ENGINE_IMAGE") or compose.image_ref(DECLARED.images["vllm-cpu"])
    known = subprocess.run(["docker", "image", "inspect", wanted], capture_output=True, check=False)
    assert known.returncode == 0, f"no image {wanted} here: deploy the demo first, or set LLM_TEST_ENGINE_IMAGE"
    return wanted


def wheel() -> Path:
    """Folder with what vLLM's own wheel has of Python; downloaded (336 MB) once, and kept in the cache of all checkouts."""
    place = make.store().parent / f"vllm-{WHEEL}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", scratch, f"vllm=={WHEEL}"], check=True)
            (file,) = Path(scratch).glob("vllm-*.whl")
            with zipfile.ZipFile(file) as archive:
                archive.extractall(f"{scratch}/vllm", [n for n in archive.namelist() if not n.endswith(".so")])
            with contextlib.suppress(OSError):  # another run was first
                Path(scratch, "vllm").replace(place)
    return place


def changed(source: Path, place: Path, files: dict[str, str | None]) -> Path:
    """A model's folder without weights, and with some files changed or left out."""
    place.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name not in files:
            shutil.copy(file, place)
    for name, text in files.items():
        if text is not None:
            (place / name).write_text(text)
    for path in (place, *place.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def requests(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Services to be asked about, and what is to be mounted for them: there -> here."""
    services: dict[str, Any] = {}
    for name, service in DECLARED.services.items():
        services[name] = {"argv": compose.engine_argv(service), "env": compose.environment(service)}
        file = catalogs.ROOT / f"files/configs/{service.model}.json"
        services[name]["model"] = {"config": json.loads(file.read_text())["config"]}
    services["plugged"] = {"argv": [*ARGV, *PLUGGED], "files": PLUGINS}
    for name, (args, env, _) in {**BAD, **WARNED}.items():
        services[name] = {"argv": [*ARGV, *args], "env": env}
    trained = make.models()
    mounts = {f"/models/{family}": str(path) for family, path in trained.items()}
    services["glm"] = {
        "argv": [*ARGV, *TOOLS, "glm47", "--reasoning-parser", "glm45"],
        "model": {"folder": "/models/glm"},
    }
    services["qwen"] = {
        "argv": [*ARGV, *TOOLS, "hermes", "--reasoning-parser", "qwen3"],
        "model": {"folder": "/models/qwen"},
    }
    services["qwen-plugged"] = {"argv": [*ARGV, *PLUGGED], "files": PLUGINS, "model": {"folder": "/models/qwen"}}
    for name, (family, files, args, _) in MODELS.items():
        services[name] = {"argv": [*ARGV, *args], "model": {"folder": f"/models/{name}"}}
        if family:
            mounts[f"/models/{name}"] = str(changed(trained[family], folder / name, files))
        else:
            services[name]["model"] = {"config": json.loads(files["config.json"] or "")}
    return services, mounts


@pytest.fixture(scope="module", params=ENGINES)
def answers(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Answers of one engine: for the catalog, for models of this machine, and for services that are wrong on purpose."""
    with tempfile.TemporaryDirectory(prefix="models-") as folder:  # pytest's own may be entered by nobody else
        Path(folder).chmod(0o755)
        services, mounts = requests(Path(folder))
        argv = ["-c", CHECK.read_text()]
        if request.param == WHEEL:
            mounts["/wheel"] = str(wheel())
        command = images.sandbox(image(), argv, mounts)
        if request.param == WHEEL:
            command[2:2] = ["--env", "PYTHONPATH=/wheel"]
        asked = json.dumps({"services": services})
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "engine": request.param}


def told(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Findings in short, after a look at their texts."""
    assert all(f["message"] and f["remedy"] for f in answer["findings"])
    assert not any("Traceback" in f["message"] or len(f["message"]) > 700 for f in answer["findings"])
    return [(f["id"], f["severity"], f["key"]) for f in answer["findings"]]


@pytest.mark.engine
@pytest.mark.parametrize("service", [*DECLARED.services, "plugged", "glm", "qwen", "qwen-plugged"])
def test_engine_takes_every_service_of_the_catalog(answers: dict[str, Any], service: str) -> None:
    if service in VISION:
        # Flags and parsers pass. This image has no torchvision, as vLLM's vision models need it; the wheel is made for
        # another image, whose own packages are not here, so that it is only told.
        severity = "error" if answers["engine"] == "image" else "warn"
        assert told(answers[service]) == [("architecture-broken", severity, "model")]
        assert "torchvision" in answers[service]["findings"][0]["message"]
        return
    assert answers[service] == {"ok": True, "findings": []}


@pytest.mark.engine
@pytest.mark.parametrize("service", BAD)
def test_engine_refuses(answers: dict[str, Any], service: str) -> None:
    assert not answers[service]["ok"]
    name, key = BAD[service][2]
    assert told(answers[service]) == [(name, "error", key)]


@pytest.mark.engine
@pytest.mark.parametrize("service", WARNED)
def test_engine_warns(answers: dict[str, Any], service: str) -> None:
    assert answers[service]["ok"]
    name, key = WARNED[service][2]
    assert told(answers[service]) == [(name, "warn", key)]


@pytest.mark.engine
@pytest.mark.parametrize("service", MODELS)
def test_engine_says_what_is_wrong_with_a_model(answers: dict[str, Any], service: str) -> None:
    wanted = MODELS[service][3]
    assert set(told(answers[service])) == {wanted}
    assert answers[service]["ok"] == (wanted[1] != "error")
