"""Every service of the catalog, put to the argument parser and the parser registries of a real vLLM.

One container answers for all: the engine image of the catalog, or the one that LLM_TEST_ENGINE_IMAGE names.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.llm import compose, spec

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "roles/vllm_service/files/engine_check.py"
ARGV = ["/model", "--served-model-name", "x", "--config", compose.SECRET]

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
    *("--tool-parser-plugin", "/plugins/mine.py", "--enable-auto-tool-choice", "--tool-call-parser", "mine"),
    *("--middleware", "log.Log", "--chat-template", "/plugins/chat.jinja"),
]
# What must be refused, so that a check that lets everything pass is noticed: name -> (arguments, environment, finding).
BAD: dict[str, tuple[list[str], dict[str, str], tuple[str, str]]] = {
    "gone-flag": (["--swap-space", "4"], {}, ("flag-unknown", "args.swap-space")),
    "ambiguous-flag": (["--device", "cuda"], {}, ("flag-unknown", "args.device")),
    "old-syntax": (["--limit-mm-per-prompt", "image=2"], {}, ("flag-value", "args.limit-mm-per-prompt")),
    "old-key": (["--compilation-config", '{"level": 3}'], {}, ("flag-value", "args.compilation-config")),
    "word": (["--dtype", "halff"], {}, ("flag-value", "args.dtype")),
    "tool-parser": (
        ["--enable-auto-tool-choice", "--tool-call-parser", "hermess"],
        {},
        ("parser-unknown", "args.tool-call-parser"),
    ),
    "reasoning-parser": (["--reasoning-parser", "glm46"], {}, ("parser-unknown", "args.reasoning-parser")),
    "no-tool-parser": (["--enable-auto-tool-choice"], {}, ("command", "args")),
    "one-word-config": (["--config=/x.yml"], {}, ("config-ignored", "args.config")),
    "env-value": (
        [],
        {"VLLM_FLOAT32_MATMUL_PRECISION": "meduim"},
        ("env-value", "env.VLLM_FLOAT32_MATMUL_PRECISION"),
    ),
    "env-fatal": (["--fail-on-environ-validation"], {"VLLM_USE_V1": "1"}, ("env-unknown", "env.VLLM_USE_V1")),
    # The parser that `plugged` registers belongs to it alone.
    "not-plugged": (
        ["--enable-auto-tool-choice", "--tool-call-parser", "mine"],
        {},
        ("parser-unknown", "args.tool-call-parser"),
    ),
}
WARNED = {
    "env-name": ([], {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}, ("env-unknown", "env.VLLM_ATTENTION_BACKEND")),
    "short-flag": (["--max-num-seq", "4"], {}, ("flag-abbreviated", "args.max-num-seq")),
}


def catalog() -> spec.Declared:
    raw: dict[str, Any] = {"settings": {}}
    for kind in ("images", "models", "services"):
        raw[kind] = yaml.safe_load((ROOT / f"group_vars/all/{kind}.yml").read_text())[f"llm_{kind}"]
    declared, findings = spec.parse(raw)
    assert declared is not None, "\n".join(f.text() for f in findings)
    return declared


DECLARED = catalog()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Answers of the engine image: for the catalog, and for services that are wrong on purpose."""
    image = os.environ.get("LLM_TEST_ENGINE_IMAGE") or compose.image_ref(DECLARED.images["vllm-cpu"])
    known = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    assert known.returncode == 0, f"no image {image} here: deploy the demo first, or set LLM_TEST_ENGINE_IMAGE"

    plugins = tmp_path_factory.mktemp("plugins")
    for file, content in (("mine.py", TOOL_PARSER), ("log.py", MIDDLEWARE), ("chat.jinja", "{{ messages }}")):
        (plugins / file).write_text(content)
    services: dict[str, Any] = {
        name: {"argv": compose.engine_argv(service), "env": compose.environment(service)}
        for name, service in DECLARED.services.items()
    }
    services["plugged"] = {"argv": [*ARGV, *PLUGGED], "plugins_dir": "/plugins/plugged"}
    for name, (args, env, _) in {**BAD, **WARNED}.items():
        services[name] = {"argv": [*ARGV, *args], "env": env}

    command = ["docker", "run", "--rm", "-i", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--user", f"{os.getuid()}:{os.getgid()}", "--tmpfs", "/tmp", "-e", "HOME=/tmp"]
    command += ["-v", f"{CHECK}:/engine_check.py:ro", "-v", f"{plugins}:/plugins/plugged:ro"]
    command += ["--entrypoint", "python3", image, "/engine_check.py"]
    request = json.dumps({"services": services})
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.engine
@pytest.mark.parametrize("service", [*DECLARED.services, "plugged"])
def test_engine_takes_every_service_of_the_catalog(answers: dict[str, Any], service: str) -> None:
    assert answers[service] == {"ok": True, "findings": []}


@pytest.mark.engine
@pytest.mark.parametrize("service", BAD)
def test_engine_refuses(answers: dict[str, Any], service: str) -> None:
    answer = answers[service]
    assert not answer["ok"]
    assert [(f["id"], f["key"]) for f in answer["findings"]] == [BAD[service][2]]
    assert all(f["message"] and f["remedy"] for f in answer["findings"])


@pytest.mark.engine
@pytest.mark.parametrize("service", WARNED)
def test_engine_warns(answers: dict[str, Any], service: str) -> None:
    answer = answers[service]
    assert answer["ok"]
    assert [(f["id"], f["severity"], f["key"]) for f in answer["findings"]] == [
        (WARNED[service][2][0], "warn", WARNED[service][2][1])
    ]
