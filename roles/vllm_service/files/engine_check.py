"""Ask an engine image whether it would accept what is about to be run in it: command line, environment, plugins, model.

Runs inside the image, without a GPU or the network, so that what cannot work is found while the old engine still serves.
One start answers for many services, because importing vLLM takes about six seconds, and all else less than one:

    docker run --rm -i --network none --tmpfs /tmp --tmpfs /cache -e HOME=/tmp -v .../engine_check.py:/engine_check.py:ro
        -v MODEL_FOLDER:/models/NAME:ro --entrypoint python3 IMAGE /engine_check.py < services.json

stdin: {"services": {name: {"argv": [arguments after `vllm serve`], "env": {NAME: value}, "files": {file: text},
    "model": {"folder": path} or {"config": {...}}}}}. All but argv is optional. files: plugins, which arguments look for
    in /plugins. model: what argv calls /model: where it lies in this container, or its config.json alone, of which
    neither tokenizer nor templates can be judged. Without it no model is looked at.
stdout: {name: {"ok": bool, "findings": [{"id", "severity", "key", "message", "remedy"}]}}. severity `error`: the engine
    would not start, or not do what is declared; `warn`: it would ignore something. ok: no error.
Exit code: 0 all ok, 1 something is not, 2 stdin was not of that shape (said on stderr, nothing on stdout).

Needs the standard library and vLLM alone. What vLLM itself prints goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

PLUGINS = "/plugins"  # where arguments say that plugin files are
MODEL = "/model"  # and the model

# The homes of one thing in vLLM, newest first: 0.33, 0.32, older; the command itself imports it, wherever it lies.
ARGUMENTS = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
    "vllm.entrypoints.cli.serve",
)
PARSER_CLASS = ("vllm.utils.argparse_utils", "vllm.utils")
TOOL_PARSERS = ("vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
REASONING_PARSERS = ("vllm.reasoning",)
ENGINE_ARGUMENTS = ("vllm.engine.arg_utils",)
MODELS = ("vllm.model_executor.models.registry",)
TOKENIZERS = ("vllm.tokenizers.registry", "vllm.tokenizers", "vllm.transformers_utils.tokenizer")
RENDERER = ("vllm.renderers.hf",)  # since 0.20 or so; the templates of an older engine are not rendered
PLUGIN_FLAGS = {"tool-parser-plugin": "tool_parser", "reasoning-parser-plugin": "reasoning_parser"}


@dataclass(frozen=True)
class Finding:
    """One thing that the engine would refuse (error) or ignore (warn).

    key: `args.<flag>`, `env.<NAME>`, `plugins.<kind>` or `model` of the service, or `image`.
    """

    id: str
    severity: str
    key: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Wanted:
    """What is to be checked for one service; see the module's text."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


class RefusedError(Exception):
    """The engine's parser does not accept a command line; carries its message."""


# ---------------------------------------------------------------------------------------------------------------------
# Pure parts.


def read_request(text: str) -> dict[str, Wanted]:
    """Read the services from the JSON on stdin; ValueError says which part has the wrong shape."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"stdin is not JSON: {error}") from error
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict):
        raise ValueError('stdin must be {"services": {name: {"argv": [...]}}}')
    found = {}
    for name, entry in services.items():
        if not isinstance(entry, dict) or not _texts(entry.get("argv")):
            raise ValueError(f"services.{name}.argv must be a list of texts")
        env = entry.get("env") or {}
        if not isinstance(env, dict) or not _texts(list(env.values())):
            raise ValueError(f"services.{name}.env must be a mapping of texts")
        files, model = entry.get("files") or {}, entry.get("model") or {}
        if not isinstance(files, dict) or not _texts(list(files.values())) or any("/" in file for file in files):
            raise ValueError(f"services.{name}.files must be a mapping of file names to texts")
        known = isinstance(model, dict) and (
            not model or isinstance(model.get("folder"), str) or isinstance(model.get("config"), dict)
        )
        if not known:
            raise ValueError(f'services.{name}.model must be {{"folder": path}} or {{"config": mapping}}')
        found[name] = Wanted(tuple(entry["argv"]), env, files, model)
    return found


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def nearest(word: str, known: Iterable[str], otherwise: str, likeness: float = 0.85) -> str:
    """Suggest the nearest known word (likeness: 0 to 1, of difflib), or say `otherwise` when none is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=likeness)
    return f"Did you mean `{near[0]}`?" if near else otherwise


def without_config(argv: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """Drop `--config FILE` where that file cannot be read here: it holds nothing but keys.

    `--config=FILE` is refused: vLLM only looks for the two-word form, and would start without its keys.
    """
    kept: list[str] = []
    found = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            path = next(words, "")
            if os.access(path, os.R_OK):
                kept += [word, path]
        elif word.startswith("--config="):
            message = "is one word, which vLLM accepts and never reads: the engine would start without its keys"
            found.append(Finding("config-ignored", "error", "args.config", message, "Make it two words"))
        else:
            kept.append(word)
    return kept, found


def here(argv: Iterable[str], plugins: str, model: str = MODEL) -> list[str]:
    """Turn paths below /plugins, and /model, into where those files lie in this container."""
    words = [plugins + word[len(PLUGINS) :] if word.startswith(f"{PLUGINS}/") else word for word in argv]
    return [model if word == MODEL else word for word in words]


def values(argv: Iterable[str], flag: str) -> list[str]:
    """List the values of a flag (with its dashes) that takes one value and may be repeated."""
    words = list(argv)
    apart = [value for word, value in itertools.pairwise(words) if word == flag]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]


def unknown_flags(message: str) -> list[str]:
    """List the flags, without dashes, that argparse calls unrecognized; none for its other messages."""
    _, marker, listed = message.partition("unrecognized arguments:")
    words = listed.splitlines()[0].split() if marker else []
    return [word.lstrip("-").partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]


def parse_findings(message: str, options: Iterable[str]) -> list[Finding]:
    """Explain a message of the engine's parser. options: its option strings, such as `--max-model-len`."""
    unknown = unknown_flags(message)
    if unknown:
        return [_unknown_flag(flag, options) for flag in unknown]
    line = without_noise(message)
    match = re.match(r"argument ([^\s:]+): (.*)", line)
    if match:
        flag = match[1].split("/")[0].lstrip("-")
        return [Finding("flag-value", "error", f"args.{flag}", f"is refused by vLLM: {match[2]}", "Correct its value")]
    match = re.match(r"ambiguous option: --([^\s=]+)\S* could match ", line)
    if match:
        return [_unknown_flag(match[1], options)]
    return [Finding("command", "error", "args", f"vLLM refuses the command line: {line}", "Correct what it names")]


def without_noise(message: str) -> str:
    """Put a message on one line, without what pydantic and argparse add for programmers."""
    line = re.sub(r" \[type=.*|<function (\w+) at \w+>", r"\1", " ".join(message.split()))
    return re.sub(r"^(?:\w+Error: )?\d+ validation errors? for \w+ (?:Value|Assertion) error, ", "", line)


def _unknown_flag(flag: str, options: Iterable[str]) -> Finding:
    # Whoever wrote disable-x does not mean enable-x, however near it is.
    opposite = flag.replace("disable-", "enable-", 1) if flag.startswith("disable-") else ""
    flags = [option[2:] for option in options if option.startswith("--") and option[2:] != opposite]
    remedy = nearest(flag, flags, "Remove it: this vLLM has nothing like it")
    return Finding("flag-unknown", "error", f"args.{flag}", "is not a flag of this vLLM", remedy)


def abbreviations(argv: Iterable[str], options: Iterable[str]) -> list[Finding]:
    """Find flags that only pass because argparse completes them; the next version may complete them to another."""
    known = set(options)
    found = []
    for word in argv:
        flag = re.split(r"[=.]", word, maxsplit=1)[0].replace("_", "-")
        full = sorted(option[2:] for option in known if option.startswith(flag))
        if word.startswith("--") and flag not in known and full:
            message = f"is no flag of vLLM, which takes it for `{full[0]}`"
            found.append(Finding("flag-abbreviated", "warn", f"args.{flag[2:]}", message, f"Write `{full[0]}`"))
    return found


def parser_finding(flag: str, name: str, registered: Iterable[str]) -> Finding | None:
    """Refuse the name of a tool or reasoning parser that is not registered; vLLM's argument parser accepts any."""
    names = sorted(registered)
    if name in names:
        return None
    message = f"names the parser `{name}`, which this vLLM does not have"
    remedy = nearest(name, names, f"It has: {', '.join(names)}", likeness=0.6)
    return Finding("parser-unknown", "error", f"args.{flag}", message, remedy)


def env_findings(env: Mapping[str, str], known: Iterable[str], fatal: bool, own: Iterable[str] = ()) -> list[Finding]:
    """Refuse names with vLLM's prefix that it does not know: it ignores them, so what they are to do is not done.

    fatal: --fail-on-environ-validation is given, and vLLM does not start; the image's own variables count then as well.
    """
    names = set(known)
    what = "then refuses to start" if fatal else "ignores it: it has been removed, or is misspelt"
    found = []
    for name in sorted({*env, *(own if fatal else ())}):
        if name.startswith("VLLM_") and name not in names:
            remedy = nearest(name, names, "Remove it")
            message = f"is unknown to this vLLM, which {what}"
            key = f"env.{name}"
            if name not in env:
                key, message = "image", f"sets {name}, which {message}"
                remedy = "Drop fail-on-environ-validation, or choose another image"
            found.append(Finding("env-unknown", "error", key, message, remedy))
    return found


def model_findings(message: str, known: Iterable[str], *, blind: bool) -> Finding:
    """Explain why vLLM makes no configuration of a model. known: its architectures.

    blind: there is no GPU to ask and the image needs one, so what depends on a device is not known here, and only told.
    """
    line = without_noise(message)
    match = re.search(r"max_model_len \((\d+)\) is greater than the derived max_model_len \((\w+)=(\d+)", line)
    if match:
        what = f"is {match[1]}, and the model allows {match[3]} ({match[2]})"
        return Finding("max-model-len", "error", "args.max-model-len", what, f"Set it to {match[3]} or less")
    if "trust_remote_code" in line or "trust-remote-code" in line:
        what = "is not set, and the model brings Python code of its own that would have to run"
        remedy = (
            "Read that code and lock the model's revision, then set it to true; or choose a model that vLLM has itself"
        )
        return Finding("remote-code", "error", "args.trust-remote-code", what, remedy)
    match = re.search(r"Model architectures? \[?'?(\w+)'?\]?.*? (?:are|is|was) (?:not )?supported", line)
    if match:
        remedy = nearest(match[1], known, "Choose an image whose engine has it, or another model")
        return Finding("architecture-unknown", "error", "model", f"is a {match[1]}, unknown to this vLLM", remedy)
    if "architecture" in line and "not recognize" in line.replace("does not recognise", "not recognize"):
        remedy = "Choose an image with a newer engine, or another model"
        return Finding("architecture-unknown", "error", "model", f"is of a type unknown to this image: {line}", remedy)
    severity = "warn" if blind and re.search(r"(?i)cpu|cuda|gpu|device|platform|triton|driver", line) else "error"
    remedy = "Correct what it names: a flag, or a file of the model"
    return Finding("model-refused", severity, "model", f"is refused by vLLM: {line}", remedy)


def probes(tools: bool, images: bool) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Conversations that a chat template has to render: (what is asked for, messages, text that must be in the result).

    Contents are texts; see `as_parts`. The id of the call is one that strict templates take: nine letters and digits.
    """
    user = {"role": "user", "content": "What is the weather in Paris?"}
    found: list[tuple[str, list[dict[str, Any]], str]] = [
        ("question", [user], "weather in Paris"),
        ("system", [{"role": "system", "content": "Answer in one sentence."}, user], "Answer in one sentence."),
    ]
    if tools:
        call = {
            "id": "preflgt01",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
        }
        asked = {"role": "assistant", "content": "", "tool_calls": [call]}
        answered = {"role": "tool", "tool_call_id": "preflgt01", "name": "get_weather", "content": "seventeen degrees"}
        found += [("tools", [user], "get_weather"), ("tool results", [user, asked, answered], "seventeen degrees")]
    if images:
        found.append(("images", [{"role": "user", "content": "What is this?", "image": True}], ""))
    return found


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def as_parts(messages: Iterable[Mapping[str, Any]], image: bool = True) -> list[dict[str, Any]]:
    """Messages whose contents are lists of parts, as templates want them that handle images themselves."""
    found = []
    for message in messages:
        parts = [{"type": "image"}] if image and message.get("image") else []
        parts += [{"type": "text", "text": message["content"]}] if message["content"] else []
        found.append({**{k: v for k, v in message.items() if k != "image"}, "content": parts})
    return found


def answer(findings: Iterable[Finding]) -> dict[str, Any]:
    """Answer for one service."""
    listed = list(findings)
    return {"ok": all(f.severity != "error" for f in listed), "findings": [asdict(f) for f in listed]}


def said(error: BaseException) -> str:
    """Put an exception on one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


# ---------------------------------------------------------------------------------------------------------------------
# Python around the engine: environment, plugins.


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the time of a with block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def plugins_apart(folder: str, tables: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Hide from later services what the plugins of one service import, and what they register in these tables."""
    kept = [(table, dict(table)) for table in tables]
    modules, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = path
        for table, before in kept:
            table.clear()
            table.update(before)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{folder}/"):
                del sys.modules[name]


def load_file(path: str) -> ModuleType:
    """Import a Python file under its own name, as vLLM does, but raise its errors, which vLLM only logs."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def laid_out(service: Wanted, folder: Path) -> tuple[str, str]:
    """Write a service's files below a folder. Returns where its plugins and its model are in this container."""
    plugins = folder / "plugins"
    plugins.mkdir()
    for name, text in service.files.items():
        (plugins / name).write_text(text, encoding="utf-8")
    if "config" not in service.model:
        return str(plugins), str(service.model.get("folder") or MODEL)
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(service.model["config"]), encoding="utf-8")
    return str(plugins), str(folder / "model")


def plugin_findings(argv: list[str]) -> list[Finding]:
    """Load the plugin files that the arguments name. This registers the parsers in them."""
    found = []
    for flag, kind in PLUGIN_FLAGS.items():
        for path in values(argv, f"--{flag}"):
            try:
                load_file(path)
            except Exception as error:  # noqa: BLE001 - an operator's file may raise anything
                message = f"{Path(path).name} cannot be loaded: {said(error)}"
                found.append(Finding("plugin-broken", "error", f"plugins.{kind}", message, "Correct the file"))
    for entry in values(argv, "--middleware"):
        module, _, name = entry.rpartition(".")
        try:
            loaded = getattr(importlib.import_module(module), name)
        except Exception as error:  # noqa: BLE001 - likewise
            problem = f"cannot be loaded: {said(error)}"
        else:
            fits = inspect.isclass(loaded) or inspect.iscoroutinefunction(loaded)
            problem = "" if fits else "is neither a class nor a coroutine function"
        if problem:
            remedy = "Correct the file, or the name after the colon"
            found.append(Finding("plugin-broken", "error", "plugins.middleware", f"{entry} {problem}", remedy))
    for path in values(argv, "--chat-template"):
        try:
            compile_template(path)
        except Exception as error:  # noqa: BLE001 - likewise
            message = f"{Path(path).name} is no chat template: {said(error)}"
            found.append(Finding("plugin-broken", "error", "plugins.chat_template", message, "Correct the file"))
    return found


def compile_template(path: str) -> None:
    """Compile a chat template as transformers will, which knows tags that plain Jinja does not."""
    templates = importlib.import_module("transformers.utils.chat_template_utils")
    compiler = getattr(templates, "_compile_jinja_template", None)
    if compiler is not None:
        compiler(Path(path).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------------------
# The engine.


def attribute(modules: Iterable[str], name: str) -> Any:
    """Get `name` from the first of these modules that exists and has it; ImportError if none does."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
        except AttributeError:
            continue
    raise ImportError(f"{name} is in none of {', '.join(modules)}")


class Engine:
    """The parts of the installed vLLM that decide whether a service can be run."""

    def __init__(self) -> None:
        # A CUDA build that sees no device cannot even build its parser: let it believe in a CPU, as its bench does.
        platforms: Any = importlib.import_module("vllm.platforms")
        self.blind = bool(platforms.current_platform.is_unspecified())
        if self.blind:
            platforms.current_platform = _no_device(importlib.import_module("vllm.platforms.cpu").CpuPlatform)()
        tools = attribute(TOOL_PARSERS, "ToolParserManager")
        reasoning = attribute(REASONING_PARSERS, "ReasoningParserManager")
        self.parsers = {
            "tool-call-parser": (tools.get_tool_parser, _tables(tools)),
            "reasoning-parser": (reasoning.get_reasoning_parser, _tables(reasoning)),
        }
        self.env: Mapping[str, Any] = importlib.import_module("vllm.envs").environment_variables
        self._validate = attribute(ARGUMENTS, "validate_parsed_serve_args")
        self._command, self._serve = _command_parser()

    def check(self, service: Wanted) -> list[Finding]:
        """Find everything that is wrong with one service."""
        tables = [table for _, tables in self.parsers.values() for table in tables]
        with tempfile.TemporaryDirectory() as scratch:
            plugins, model = laid_out(service, Path(scratch))
            argv, found = without_config(here(service.argv, plugins, model))
            found += env_findings(service.env, self.env, "--fail-on-environ-validation" in argv, os.environ)
            with environment(service.env), plugins_apart(plugins, tables):
                found += self._env_values(service.env)
                found += plugin_findings(argv)
                try:
                    parsed = self._parse(argv)
                except RefusedError as error:
                    return found + parse_findings(str(error), self._serve._option_string_actions)
                found += abbreviations(argv, self._serve._option_string_actions)
                parsers, wrong = self._parsers(parsed)
                found += wrong
                if service.model:
                    parsed.model = model
                    found += self._model(parsed, parsers, whole="folder" in service.model)
        return found

    def _parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse arguments as `vllm serve` does."""
        try:
            parsed: argparse.Namespace = self._command.parse_args(["serve", *argv])
            self._validate(parsed)
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError(said(error)) from error
        return parsed

    def _env_values(self, env: Mapping[str, str]) -> list[Finding]:
        """Let vLLM read the variables that it knows: some accept only certain words, or numbers."""
        found = []
        for name in sorted(set(env) & set(self.env)):
            try:
                self.env[name]()
            except Exception as error:  # noqa: BLE001 - each has code of its own
                message = f"has a value that vLLM refuses: {said(error)}"
                found.append(Finding("env-value", "error", f"env.{name}", message, "Correct its value"))
        return found

    def _parsers(self, parsed: argparse.Namespace) -> tuple[dict[str, Any], list[Finding]]:
        """Resolve the names of tool and reasoning parsers, and import what they stand for: {flag: class}, findings."""
        classes, found = {}, []
        for flag, (load, tables) in self.parsers.items():
            name = getattr(parsed, flag.replace("-", "_"), None)
            if not name:
                continue
            unknown = parser_finding(flag, name, {known for table in tables for known in table})
            if unknown:
                found.append(unknown)
                continue
            try:
                classes[flag] = load(name)
            except Exception as error:  # noqa: BLE001 - imports modules of vLLM or of a plugin
                message = f"names the parser `{name}`, which cannot be loaded: {said(error)}"
                remedy = "Choose another parser or image"
                found.append(Finding("parser-broken", "error", f"args.{flag}", message, remedy))
        return classes, found

    def _model(self, parsed: argparse.Namespace, parsers: Mapping[str, Any], *, whole: bool) -> list[Finding]:
        """Let vLLM make its configuration of the model, and talk to its tokenizer and templates if all of it is there."""
        registry: Any = importlib.import_module(MODELS[0])
        # It imports each architecture in a process of its own, which costs six seconds and keeps CUDA out of the server.
        registry._run_in_subprocess = lambda function: function()
        try:
            config = attribute(ENGINE_ARGUMENTS, "AsyncEngineArgs").from_cli_args(parsed).create_model_config()
        except Exception as error:  # noqa: BLE001 - any refusal
            if "failed to be inspected" in str(error):
                return [self._not_imported(parsed.model, registry.ModelRegistry.models)]
            return [model_findings(said(error), registry.ModelRegistry.get_supported_archs(), blind=self.blind)]
        found = []
        served_by = str(getattr(config, "architecture", ""))
        if served_by.startswith("Transformers"):
            message = (
                f"is served by vLLM's fallback {served_by}, for it has no {', '.join(config.architectures)} of its own"
            )
            remedy = "Expect less speed and fewer features, or choose an image whose engine has it"
            found.append(Finding("architecture-fallback", "warn", "model", message, remedy))
        if whole:
            found += sampling_findings(parsed.model, str(config.generation_config))
            if not config.skip_tokenizer_init and config.runner_type == "generate":
                found += _chat(parsed, config, parsers)
        return found

    def _not_imported(self, folder: str, models: Mapping[str, Any]) -> Finding:
        """Say why an architecture that vLLM has cannot be imported in this image."""
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        name = next(n for n in config["architectures"] if n in models)
        why = "for an unknown reason"
        try:
            models[name].load_model_cls()
        except Exception as error:  # noqa: BLE001 - any module of the engine
            why = said(error)
        severity = "warn" if self.blind else "error"
        remedy = "Choose an image that has what is missing, or another model"
        return Finding(
            "architecture-broken", severity, "model", f"is a {name}, which this image cannot load: {why}", remedy
        )


def _no_device(cpu: Any) -> Any:
    """A platform for an image that has no device here: a CPU that refuses nothing which only a GPU has."""

    class NoDevice(cpu):
        supported_quantization: Iterable[str] = ()

        @classmethod
        def verify_quantization(cls, quant: str) -> None:
            """Leave it to the GPU."""

        @classmethod
        def is_sleep_mode_available(cls) -> bool:
            return True

        @classmethod
        def is_cumem_allocator_available(cls) -> bool:
            return True

    return NoDevice


def sampling_findings(model: str, given: str) -> list[Finding]:
    """Refuse a generation_config.json that cannot be read: vLLM says nothing, and samples by its own defaults.

    given: value of --generation-config: auto (the model's, if it has one), vllm (none) or a folder.
    """
    file = Path(model if given == "auto" else given, "generation_config.json")
    if given == "vllm" or (given == "auto" and not file.is_file()):
        return []
    key = "model" if given == "auto" else "args.generation-config"
    try:
        if isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
            return []
        why = "it is no mapping"
    except (OSError, ValueError) as error:
        why = said(error)
    message = f"generation_config.json cannot be read, and vLLM would sample by its own defaults without a word: {why}"
    return [Finding("generation-config", "error", key, message, "Correct the file, or set generation-config to vllm")]


def _chat(parsed: argparse.Namespace, config: Any, parsers: Mapping[str, Any]) -> list[Finding]:
    """Load a model's tokenizer, make the parsers with it, and render its chat template with what the flags promise."""
    try:
        tokenizer = attribute(TOKENIZERS, "cached_tokenizer_from_config")(config)
        # Without its files transformers makes up a tokenizer that knows no word.
        if len(set(tokenizer.encode("What is the capital of France?"))) < 4:
            raise ValueError("it knows no word; its files (tokenizer.json or a vocabulary) are missing or empty")
    except Exception as error:  # noqa: BLE001 - reads files of the model
        message = f"has no tokenizer that can be loaded: {said(error)}"
        return [
            Finding("tokenizer", "error", "model", message, "Remove the model's folder and run again to fetch it anew")
        ]
    found = []
    for flag, parser in parsers.items():
        try:
            parser(tokenizer)
        except Exception as error:  # noqa: BLE001 - code of vLLM or of a plugin
            message = f"does not fit the model's tokenizer: {said(error)}"
            found.append(
                Finding("parser-unfit", "error", f"args.{flag}", message, "Name the parser of the model's family")
            )
    if not hasattr(tokenizer, "get_chat_template"):  # of a family that has a renderer in vLLM and no template
        return found
    key = "plugins.chat_template" if parsed.chat_template else "model"
    try:
        render, resolve, form = (
            attribute(RENDERER, name)
            for name in ("safe_apply_chat_template", "resolve_chat_template", "resolve_chat_template_content_format")
        )
    except ImportError:
        message = "its chat template is not rendered: this vLLM has no function for that which is known here"
        return [
            *found,
            Finding("template-unchecked", "warn", key, message, "Rely on the question asked after the start"),
        ]
    template = parsed.chat_template
    if template and Path(template).is_file():
        template = Path(template).read_text(encoding="utf-8")
    if resolve(tokenizer, template, None, model_config=config) is None:
        message = "has no chat template, so the engine would refuse every chat"
        remedy = "Name one in plugins.chat_template, or choose a model that was trained to chat"
        return [*found, Finding("template-missing", "error", "model", message, remedy)]
    kwargs = getattr(parsed, "default_chat_template_kwargs", None) or {}
    given = getattr(parsed, "chat_template_content_format", "auto")

    def shown(messages: list[dict[str, Any]], tools: list[Any] | None, *, image: bool = True) -> tuple[str, str]:
        kind = form(template, tools, given, tokenizer, model_config=config)
        if kind == "openai":
            messages = as_parts(messages, image)
        more = {"tools": tools, "chat_template": template, "tokenize": False, "add_generation_prompt": True}
        return str(render(config, tokenizer, messages, **{**kwargs, **more})), kind

    return found + template_findings(key, bool(parsed.enable_auto_tool_choice), _takes_images(parsed, config), shown)


def _takes_images(parsed: argparse.Namespace, config: Any) -> bool:
    limit = (getattr(parsed, "limit_mm_per_prompt", None) or {}).get("image", 1)
    allowed = limit.get("count", 1) if isinstance(limit, Mapping) else limit
    return bool(config.is_multimodal_model and allowed and getattr(config.hf_config, "vision_config", None))


def template_findings(key: str, tools: bool, images: bool, shown: Callable[..., tuple[str, str]]) -> list[Finding]:
    """Render what the service promises. shown(messages, tools, image=...): the text, and `openai` or `string`.

    Where contents are texts (`string`), vLLM writes the places of images itself.
    """
    found = []
    for what, messages, wanted in probes(tools, images):
        offered = [TOOL] if what.startswith("tool") else None
        severity = "warn" if what == "system" else "error"
        remedy = "Correct the template, or name another in plugins.chat_template"
        if offered:
            remedy += "; or drop enable-auto-tool-choice"
        try:
            text, kind = shown(messages, offered)
            missing = wanted not in text
            if what == "images":
                missing = kind == "openai" and text == shown(messages, offered, image=False)[0]
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            message = f"its chat template fails with {what}: {said(error)}"
            found.append(Finding("template-broken", severity, key, message, remedy))
            if what == "question":
                break
        else:
            if missing:
                message = f"its chat template leaves out {what}: the model would never see them"
                found.append(Finding("template-incomplete", severity, key, message, remedy))
    return found


def _command_parser() -> tuple[Any, Any]:
    """Build the parser of the `vllm` command, and that of `serve` in it. Both raise RefusedError instead of exiting."""
    flexible: Any = attribute(PARSER_CLASS, "FlexibleArgumentParser")

    class Parser(flexible):
        def exit(self, status: int = 0, message: str | None = None) -> None:
            text = re.sub(r"^.*?: error: ", "", message or "", count=1).strip()
            raise RefusedError(text or f"it would print something and exit with {status}")

        def print_usage(self, file: Any = None) -> None:
            """Print nothing: it has hundreds of lines."""

        def print_help(self, file: Any = None) -> None:
            """Print nothing, likewise."""

    command = Parser(prog="vllm")
    serve = command.add_subparsers(dest="subparser").add_parser("serve")
    return command, attribute(ARGUMENTS, "make_arg_parser")(serve)


def _tables(manager: Any) -> list[dict[str, Any]]:
    """Get the tables in which a manager keeps its parsers: loaded ones, and (since 0.11) those to be loaded on use."""
    names = ("tool_parsers", "reasoning_parsers", "lazy_parsers")
    return [table for table in (getattr(manager, name, None) for name in names) if isinstance(table, dict)]


def check_all(services: Mapping[str, Wanted]) -> dict[str, Any]:
    """Answer for every service. If vLLM itself cannot be asked, all of them carry that finding."""
    try:
        engine = Engine()
    except Exception as error:  # noqa: BLE001 - a broken image may raise anything
        message = f"vLLM in this image cannot be asked: {said(error)}"
        remedy = "Check that the image is complete and its vLLM not older than 0.11"
        return {name: answer([Finding("engine-unreadable", "error", "image", message, remedy)]) for name in services}
    return {name: answer(engine.check(service)) for name, service in services.items()}


def main() -> int:
    """Read the request and answer it; see the module's text for shapes and exit codes."""
    try:
        services = read_request(sys.stdin.read())
    except ValueError as error:
        print(f"engine_check: {error}", file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"  # as engines run, and read when it is imported: there is no network to wait for
    # vLLM logs to stdout, which belongs to the answer: everything else goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        answers = check_all(services)
        json.dump(answers, out, indent=1, sort_keys=True)
        out.write("\n")
    return 0 if all(a["ok"] for a in answers.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
