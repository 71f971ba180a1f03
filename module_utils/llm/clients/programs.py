"""Configuration of the programs that people use, from what a service declares. Pure: files as text.

No file holds a key. Each names where the client finds it: an environment variable (`Served.key_variable`), or what the client
offers instead. docs/clients.md says which of them were run against an engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.llm.base import addresses

LARGEST_OUTPUT = 32768
"""Most tokens of an answer that a client is configured to ask for."""


@dataclass(frozen=True)
class Served:
    """A service as its clients need to know it. Lengths are tokens."""

    service: str
    url: str  # without /v1
    model: str
    context: int
    vision: bool = False
    tools: bool = False
    thinking: bool = False

    @property
    def key_variable(self) -> str:
        """Environment variable in which clients look for the key."""
        return f"LLM_{re.sub('[^A-Z0-9]', '_', self.service.upper())}_KEY"

    @property
    def output(self) -> int:
        """Most tokens of an answer: a quarter of the context. The prompt, and so a conversation, has the rest.

        Clients ask for as many tokens as their configuration allows; engines refuse a request whose prompt and answer
        together may be longer than the context.
        """
        return max(1, min(LARGEST_OUTPUT, self.context // 4))


def served(service: str, url: str, declared: Mapping[str, Any]) -> Served:
    """Served from what `facts` gave of a service, and its address. ValueError when nobody said how long its context is."""
    if not declared.get("context"):
        raise ValueError(
            f"the context of {service} is unknown. Set `max-model-len` in its `args`, or `context` of its model"
        )
    return Served(service=service, url=url.rstrip("/"), **declared)


@dataclass(frozen=True)
class Address:
    """How the gateway of a host is reached. Without TLS, https_port is 0."""

    bind_address: str
    host: str  # name or address by which the machine is reached
    https_port: int = 0
    ports_address: str = ""  # of the services' own ports, where that is another one
    known_as: str = ""  # name or address under which it answers for all services over TLS


def url(at: Address, service: str, port: int, name: str = "") -> str:
    """Address of a service for its clients: by its name over TLS where it has both, else its own port.

    Where the ports are published on loopback and the clients are elsewhere, it is a path of the gateway's own address, over TLS.
    """
    tls = "" if at.https_port == 443 else f":{at.https_port}"
    if name and at.https_port:
        return f"https://{name}{tls}"
    plain = at.ports_address or at.bind_address
    elsewhere = not addresses.is_loopback(at.host) and not addresses.is_loopback(at.bind_address)
    if at.https_port and addresses.is_loopback(plain) and elsewhere:
        return f"https://{addresses.in_url(at.known_as or at.host)}{tls}/{service}"
    everywhere = plain in ("0.0.0.0", "::")  # noqa: S104 - what was declared, compared
    return f"http://{addresses.in_url(at.host if everywhere else plain)}:{port}"


def facts(model: str, args: Mapping[str, Any], context: int, vision: bool) -> dict[str, Any]:
    """What clients need to know of a service. args: its flags. context: what its model declares, in tokens."""
    length = _tokens(args.get("max-model-len"))
    return {
        "model": model,
        "context": min(length, context) if length and context else length or context,
        "vision": vision and _images(args.get("limit-mm-per-prompt")),
        "tools": bool(args.get("enable-auto-tool-choice") and args.get("tool-call-parser")),
        "thinking": bool(args.get("reasoning-parser")),
    }


def _tokens(value: Any) -> int:
    """A number of tokens as the engine reads it: 32k is 32000, 32K is 32768; 0 when it is left to the engine."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", str(value).strip())
    if not found:
        return 0
    return int(float(found[1]) * {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[found[2]])


def _images(limits: Any) -> bool:
    return not (isinstance(limits, Mapping) and limits.get("image") == 0)


def files(what: Served) -> dict[str, str]:
    """Every file of every client: {"<client>/<file>": text}."""
    return {f"{client}/{name}": text for client, make in CLIENTS.items() for name, text in make(what).items()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _q(text: str) -> str:
    """A string in TOML or YAML: both read JSON's."""
    return json.dumps(text, ensure_ascii=False)


def claude_code(what: Served) -> dict[str, str]:
    """~/.claude/settings.json. The output of apiKeyHelper is sent as bearer token, the one form that engines accept."""
    environment = {
        "ANTHROPIC_BASE_URL": what.url,
        "ANTHROPIC_MODEL": what.model,
        **{f"ANTHROPIC_DEFAULT_{size}_MODEL": what.model for size in ("FABLE", "OPUS", "SONNET", "HAIKU")},
        "CLAUDE_CODE_SUBAGENT_MODEL": what.model,
        # A line that changes with each request at the head of the prompt: no request would find the one before in the cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(what.context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(what.output),
    }
    return {"settings.json": _json({"apiKeyHelper": f"printenv {what.key_variable}", "env": environment})}


def codex(what: Served) -> dict[str, str]:
    """~/.codex/config.toml: Codex speaks the Responses API only."""
    lines = [
        f"model = {_q(what.model)}",
        f"model_provider = {_q(what.service)}",
        f"model_context_window = {what.context}",
        f"model_auto_compact_token_limit = {what.context - what.output}",
        "",
        f"[model_providers.{_q(what.service)}]",
        f"name = {_q(what.service)}",
        f"base_url = {_q(what.url + '/v1')}",
        f"env_key = {_q(what.key_variable)}",
        'wire_api = "responses"',
    ]
    return {"config.toml": "\n".join(lines) + "\n"}


def _ai_sdk(what: Served, schema: str) -> str:
    """OpenCode's format, which Kilo shares."""
    model = {
        "name": what.model,
        "limit": {"context": what.context, "output": what.output},
        "tool_call": what.tools,
        "reasoning": what.thinking,
        "attachment": what.vision,
        "modalities": {"input": ["text", *(["image"] if what.vision else [])], "output": ["text"]},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": what.service,
        "options": {"baseURL": f"{what.url}/v1", "apiKey": f"{{env:{what.key_variable}}}"},
        "models": {what.model: model},
    }
    chosen = f"{what.service}/{what.model}"
    return _json({"$schema": schema, "model": chosen, "small_model": chosen, "provider": {what.service: provider}})


def opencode(what: Served) -> dict[str, str]:
    """~/.config/opencode/opencode.json."""
    return {"opencode.json": _ai_sdk(what, "https://opencode.ai/config.json")}


def kilo(what: Served) -> dict[str, str]:
    """~/.config/kilo/kilo.json."""
    return {"kilo.json": _ai_sdk(what, "https://app.kilo.ai/config.json")}


def qwen_code(what: Served) -> dict[str, str]:
    """~/.qwen/settings.json."""
    model = {
        "id": what.model,
        "name": what.service,
        "baseUrl": f"{what.url}/v1",
        "envKey": what.key_variable,
        "generationConfig": {"contextWindowSize": what.context, "samplingParams": {"max_tokens": what.output}},
    }
    return {
        "settings.json": _json(
            {
                "modelProviders": {"openai": [model]},
                "security": {"auth": {"selectedType": "openai"}},
                "model": {"name": what.model},
                "privacy": {"usageStatisticsEnabled": False},
            }
        )
    }


def continue_dev(what: Served) -> dict[str, str]:
    """~/.continue/config.yaml."""
    capabilities = [*(["tool_use"] if what.tools else []), *(["image_input"] if what.vision else [])]
    lines = [
        f"name: {_q(what.service)}",
        "version: 1.0.0",
        "schema: v1",
        "models:",
        f"  - name: {_q(what.service)}",
        "    provider: openai",
        f"    model: {_q(what.model)}",
        f"    apiBase: {_q(what.url + '/v1')}",
        f"    apiKey: ${{{{ secrets.{what.key_variable} }}}}",
        "    roles: [chat, edit, apply]",
        f"    capabilities: [{', '.join(capabilities)}]",
        "    defaultCompletionOptions:",
        f"      contextLength: {what.context}",
        f"      maxTokens: {what.output}",
    ]
    return {"config.yaml": "\n".join(lines) + "\n"}


def cline(what: Served) -> dict[str, str]:
    """A script: Cline keeps its settings itself, and the key with them. It asks for the key when it is run."""
    lines = [
        "#!/bin/sh",
        "# Cline has no reference to a key: it copies it into its own store, readable by you alone.",
        f': "${{{what.key_variable}:?set it to the key of {what.service}}}"',
        f'exec cline auth --provider openai --apikey "${what.key_variable}" --modelid {_sh(what.model)} '
        f"--baseurl {_sh(what.url + '/v1')}",
    ]
    return {"setup.sh": "\n".join(lines) + "\n"}


def _sh(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def aider(what: Served) -> dict[str, str]:
    """~/.aider.conf.yml and what it names; the key comes from OPENAI_API_KEY, which start.sh fills."""
    name = f"openai/{what.model}"
    conf = [
        f"model: {_q(name)}",
        f"weak-model: {_q(name)}",
        f"openai-api-base: {_q(what.url + '/v1')}",
        "model-metadata-file: .aider.model.metadata.json",
        "analytics-disable: true",
        "check-update: false",
    ]
    metadata = {
        name: {
            "max_tokens": what.output,
            "max_input_tokens": what.context - what.output,
            "max_output_tokens": what.output,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
            "supports_vision": what.vision,
        }
    }
    start = ["#!/bin/sh", f'OPENAI_API_KEY="${what.key_variable}" exec aider "$@"']
    return {
        ".aider.conf.yml": "\n".join(conf) + "\n",
        ".aider.model.metadata.json": _json(metadata),
        "start.sh": "\n".join(start) + "\n",
    }


def open_webui(what: Served) -> dict[str, str]:
    """Settings of its container, for Compose, which replaces the reference by the variable's value."""
    parameters = {"max_tokens": what.output, "function_calling": "native" if what.tools else "default"}
    lines = [
        f"OPENAI_API_BASE_URL={what.url}/v1",
        f"OPENAI_API_KEY=${{{what.key_variable}}}",
        f"DEFAULT_MODELS={what.model}",
        f"TASK_MODEL_EXTERNAL={what.model}",
        f"DEFAULT_MODEL_PARAMS={json.dumps(parameters)}",
        "ENABLE_OLLAMA_API=false",
    ]
    return {"open-webui.env": "\n".join(lines) + "\n"}


def vs_code(what: Served) -> dict[str, str]:
    """chatLanguageModels.json of VS Code's own chat, 1.122 and newer. VS Code asks for the key and keeps it."""
    model = {
        "id": what.model,
        "name": what.service,
        "url": f"{what.url}/v1/chat/completions",
        "toolCalling": what.tools,
        "vision": what.vision,
        "thinking": what.thinking,
        "streaming": True,
        "maxInputTokens": what.context - what.output,
        "maxOutputTokens": what.output,
    }
    group = {
        "name": what.service,
        "vendor": "customendpoint",
        "apiKey": f"${{input:{what.key_variable}}}",
        "apiType": "chat-completions",
        "models": [model],
    }
    return {"chatLanguageModels.json": _json([group])}


def sdks(what: Served) -> dict[str, str]:
    """Variables that the SDKs of OpenAI and Anthropic read, to be sourced by a shell."""
    lines = [
        f'export OPENAI_BASE_URL="{what.url}/v1" OPENAI_API_KEY="${what.key_variable}"',
        f'export ANTHROPIC_BASE_URL="{what.url}" ANTHROPIC_AUTH_TOKEN="${what.key_variable}"',
        "unset ANTHROPIC_API_KEY  # it would be sent in a header that engines don't read",
    ]
    return {"env.sh": "\n".join(lines) + "\n"}


CLIENTS: Mapping[str, Callable[[Served], dict[str, str]]] = {
    "aider": aider,
    "claude-code": claude_code,
    "cline": cline,
    "codex": codex,
    "continue": continue_dev,
    "kilo": kilo,
    "open-webui": open_webui,
    "opencode": opencode,
    "qwen-code": qwen_code,
    "sdks": sdks,
    "vs-code": vs_code,
}
