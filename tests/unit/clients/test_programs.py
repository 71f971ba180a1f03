"""Configuration of clients: well-formed, from the declaration, and without a key. The programs read it in tests/e2e."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_client_config
import pytest
import tomllib
import yaml
from ansible.module_utils.llm.clients import programs

from tests import catalogs

DECLARED = {"model": "glm-4.7-flash", "context": 131072, "vision": False, "tools": True, "thinking": True}
WHAT = programs.served("medium-glm", "http://192.168.1.20:5002/", DECLARED)
URL = "http://192.168.1.20:5002"


def read(name: str, text: str) -> Any:
    """What a program would read; a script as its text, after a shell has looked at it."""
    if name.endswith(".json"):
        return json.loads(text)
    if name.endswith(".toml"):
        return tomllib.loads(text)
    if name.endswith((".yaml", ".yml")):
        return yaml.safe_load(text)
    if name.endswith(".env"):
        return dict(line.split("=", 1) for line in text.splitlines())
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    return text


@pytest.mark.parametrize("model", ["glm-4.7-flash", "org/model name", "odd\"'$`\\name", "ünï"])
def test_every_file_is_well_formed_whatever_the_model_is_called(model: str) -> None:
    found = programs.files(programs.served("a-1", URL, {**DECLARED, "model": model}))
    assert {name.partition("/")[0] for name in found} == set(programs.CLIENTS)
    for name, text in found.items():
        assert text.endswith("\n") and read(name, text)


def test_every_client_is_told_path_model_and_key_variable() -> None:
    for client in programs.CLIENTS:
        text = "".join(t for n, t in programs.files(WHAT).items() if n.startswith(f"{client}/"))
        assert URL in text and "LLM_MEDIUM_GLM_KEY" in text, client
        assert "glm-4.7-flash" in text or client == "sdks", client


def test_limits_are_those_of_the_declaration() -> None:
    found = {name: read(name, text) for name, text in programs.files(WHAT).items()}
    model = found["opencode/opencode.json"]["provider"]["medium-glm"]["models"]["glm-4.7-flash"]
    assert (model["limit"], model["tool_call"], model["reasoning"], model["attachment"]) == (
        {"context": 131072, "output": 32768},
        *(True, True, False),
    )
    assert found["claude-code/settings.json"]["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "32768"
    assert found["claude-code/settings.json"]["env"]["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert found["codex/config.toml"]["model_context_window"] == 131072
    assert found["continue/config.yaml"]["models"][0]["defaultCompletionOptions"] == {
        "contextLength": 131072,
        "maxTokens": 32768,
    }
    (listed,) = found["vs-code/chatLanguageModels.json"][0]["models"]
    assert (listed["maxInputTokens"], listed["maxOutputTokens"]) == (98304, 32768)
    entry = found["aider/.aider.model.metadata.json"]["openai/glm-4.7-flash"]
    assert (entry["max_input_tokens"], entry["max_output_tokens"]) == (98304, 32768)
    (qwen,) = found["qwen-code/settings.json"]["modelProviders"]["openai"]
    assert qwen["generationConfig"]["contextWindowSize"] == 131072


@pytest.mark.parametrize(("context", "output"), [(131072, 32768), (1_000_000, 32768), (2048, 512), (3, 1)])
def test_prompt_and_answer_fit_into_the_context(context: int, output: int) -> None:
    assert programs.served("a", URL, {**DECLARED, "context": context}).output == output


@pytest.mark.parametrize(
    ("args", "context", "expected"),
    [
        ({"max-model-len": 4096}, 8192, 4096),
        ({"max-model-len": "32k"}, 40960, 32000),
        ({"max-model-len": "32K"}, 40960, 32768),
        ({"max-model-len": -1}, 8192, 8192),
        ({"max-model-len": "auto"}, 8192, 8192),
        ({}, 8192, 8192),
        ({"max-model-len": 131072}, 8192, 8192),
    ],
)
def test_the_context_is_the_shorter_of_engine_and_model(args: Any, context: int, expected: int) -> None:
    assert programs.facts("m", args, context, False)["context"] == expected


def test_what_a_service_can_do_follows_from_its_flags() -> None:
    flags = {"enable-auto-tool-choice": True, "tool-call-parser": "hermes", "reasoning-parser": "qwen3"}
    assert programs.facts("m", flags, 1, True) == {
        "model": "m",
        "context": 1,
        "vision": True,
        "tools": True,
        "thinking": True,
    }
    told = programs.facts("m", {"tool-call-parser": "hermes", "limit-mm-per-prompt": {"image": 0}}, 1, True)
    assert (told["vision"], told["tools"], told["thinking"]) == (False, False, False)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("0.0.0.0", "http://box.example.org:5002"),
        ("192.168.1.20", "http://192.168.1.20:5002"),
        ("127.0.0.1", "http://127.0.0.1:5002"),
        ("fd00::1", "http://[fd00::1]:5002"),
    ],
)
def test_the_address_is_the_one_that_clients_reach(bind: str, expected: str) -> None:
    assert programs.url(programs.Address(bind, "box.example.org"), "medium", 5002) == expected


def test_a_service_with_a_name_and_tls_is_reached_by_them() -> None:
    def url(https_port: int, name: str = "api.medium.example.org") -> str:
        return programs.url(programs.Address("0.0.0.0", "box", https_port), "medium", 5002, name)

    assert url(443) == "https://api.medium.example.org"
    assert url(8443) == "https://api.medium.example.org:8443"
    assert url(0) == "http://box:5002"
    assert url(443, "") == "http://box:5002"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("192.0.2.1", "box", 443, "127.0.0.1", "192.0.2.1"), "https://192.0.2.1/medium"),
        (("0.0.0.0", "box", 8443, "127.0.0.1", "api.example.org"), "https://api.example.org:8443/medium"),
        (("fd00::1", "box", 443, "::1", "fd00::1"), "https://[fd00::1]/medium"),
        (("192.0.2.1", "localhost", 443, "127.0.0.1", "192.0.2.1"), "http://127.0.0.1:5002"),  # here, not elsewhere
        (("127.0.0.1", "box", 443, "127.0.0.1", "box"), "http://127.0.0.1:5002"),  # no port is open elsewhere
        (("192.0.2.1", "box", 0, "127.0.0.1", "192.0.2.1"), "http://127.0.0.1:5002"),
        (("192.0.2.1", "box", 443, "192.0.2.2", "192.0.2.1"), "http://192.0.2.2:5002"),
    ],
)
def test_a_port_for_the_host_alone_is_no_address_for_clients_elsewhere(place: Any, expected: str) -> None:
    assert programs.url(programs.Address(*place), "medium", 5002) == expected


def test_the_page_lists_every_client_and_its_files() -> None:
    page = (catalogs.ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert [n for n in programs.files(WHAT) if f"`{n}`" not in page] == []


# -- the module ---------------------------------------------------------------------------------------------------------


def test_the_module_writes_what_differs_and_shows_it(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    arguments = {"service": "medium-glm", "url": URL, "declared": DECLARED, "folder": str(tmp_path / "x")}
    predicted = run_module(llm_client_config, arguments, check_mode=True)
    assert predicted["changed"] and not (tmp_path / "x").exists()
    done = run_module(llm_client_config, arguments)
    assert done["diff"] == predicted["diff"] and done["key_variable"] == "LLM_MEDIUM_GLM_KEY"
    assert sorted(done["files"]) == sorted(str(p) for p in (tmp_path / "x").rglob("*") if p.is_file())
    assert not run_module(llm_client_config, arguments)["changed"]
    (tmp_path / "x/codex/config.toml").write_text("old")
    again = run_module(llm_client_config, arguments)
    assert [(d["before"], d["after_header"]) for d in again["diff"]] == [("old", str(tmp_path / "x/codex/config.toml"))]
    assert (tmp_path / "x/aider/start.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": ["codex", "emacs"]}, "clients: emacs is not known. Known are aider, claude-code"),
        ({"declared": {**DECLARED, "context": 0}}, "the context of a is unknown. Set `max-model-len`"),
        (
            {"declared": {"model": "m", "context": 5, "colour": 1}},
            "declared: .*colour.*Pass an entry of llm_plan.clients",
        ),
        ({"folder": "/proc/nowhere"}, "folder /proc/nowhere/.*: .*Name a folder that can be written"),
    ],
)
def test_the_module_refuses_with_what_to_do(
    run_module: Callable[..., dict[str, Any]], tmp_path: Path, changes: Any, said: str
) -> None:
    import re

    result = run_module(
        llm_client_config,
        {"service": "a", "url": URL, "declared": DECLARED, "folder": str(tmp_path), **changes},
    )
    assert result["failed"] and re.search(said, result["msg"])


def test_one_client_gets_its_files_alone(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run_module(
        llm_client_config,
        {"service": "a", "url": URL, "declared": DECLARED, "folder": str(tmp_path), "clients": ["codex"]},
    )
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == ["codex/config.toml"]
