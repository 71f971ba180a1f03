"""Ask an engine image whether it would accept the command lines that are about to be run in it.

Runs inside the image, without a GPU, a model or the network, so that a wrong flag is found while the old engine still
serves. One start answers for many services, because importing vLLM takes about ten seconds:

    docker run --rm -i --network none --tmpfs /tmp -e HOME=/tmp -v .../engine_check.py:/engine_check.py:ro
        --entrypoint python3 IMAGE /engine_check.py < services.json

stdin: {"services": {name: {"argv": [arguments after `vllm serve`], "env": {NAME: value}, "plugins_dir": path}}}.
    env is optional. plugins_dir: where the service's plugin files lie in this container (default: /plugins, which is
    where the arguments say they are).
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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PLUGINS = "/plugins"  # where arguments say that plugin files are

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
PLUGIN_FLAGS = {"tool-parser-plugin": "tool_parser", "reasoning-parser-plugin": "reasoning_parser"}


@dataclass(frozen=True)
class Finding:
    """One thing that the engine would refuse (error) or ignore (warn).

    key: `args.<flag>`, `env.<NAME>`, `plugins.<kind>` of the service, or `image`.
    """

    id: str
    severity: str
    key: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Service:
    """What is to be checked for one service; see the module's text."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    plugins_dir: str = PLUGINS


class RefusedError(Exception):
    """The engine's parser does not accept a command line; carries its message."""


# ---------------------------------------------------------------------------------------------------------------------
# Pure parts.


def read_request(text: str) -> dict[str, Service]:
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
        plugins = entry.get("plugins_dir") or PLUGINS
        if not isinstance(plugins, str):
            raise ValueError(f"services.{name}.plugins_dir must be a path")
        found[name] = Service(tuple(entry["argv"]), env, plugins.rstrip("/"))
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


def here(argv: Iterable[str], plugins_dir: str) -> list[str]:
    """Turn paths below /plugins into where those files lie in this container."""
    return [plugins_dir + word[len(PLUGINS) :] if word.startswith(f"{PLUGINS}/") else word for word in argv]


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
    noise = r" \[type=.*|<function (\w+) at \w+>"  # of pydantic and argparse
    line = re.sub(noise, r"\1", " ".join(message.split()))
    match = re.match(r"argument ([^\s:]+): (.*)", line)
    if match:
        flag = match[1].split("/")[0].lstrip("-")
        return [Finding("flag-value", "error", f"args.{flag}", f"is refused by vLLM: {match[2]}", "Correct its value")]
    match = re.match(r"ambiguous option: --([^\s=]+)\S* could match ", line)
    if match:
        return [_unknown_flag(match[1], options)]
    return [Finding("command", "error", "args", f"vLLM refuses the command line: {line}", "Correct what it names")]


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


def env_findings(env: Mapping[str, str], known: Iterable[str], fatal: bool) -> list[Finding]:
    """Find names with vLLM's prefix that it does not know: ignored, or fatal with --fail-on-environ-validation."""
    names = set(known)
    severity, what = ("error", "then refuses to start") if fatal else ("warn", "ignores it")
    found = []
    for name in sorted(env):
        if name.startswith("VLLM_") and name not in names:
            remedy = nearest(name, names, "Remove it")
            message = f"is unknown to this vLLM, which {what}"
            found.append(Finding("env-unknown", severity, f"env.{name}", message, remedy))
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
    """The parts of the installed vLLM that decide whether a command line is good."""

    def __init__(self) -> None:
        # A CUDA build that sees no device cannot even build its parser: let it believe in a CPU, as its bench does.
        platforms: Any = importlib.import_module("vllm.platforms")
        if platforms.current_platform.is_unspecified():
            platforms.current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
        tools = attribute(TOOL_PARSERS, "ToolParserManager")
        reasoning = attribute(REASONING_PARSERS, "ReasoningParserManager")
        self.parsers = {
            "tool-call-parser": (tools.get_tool_parser, _tables(tools)),
            "reasoning-parser": (reasoning.get_reasoning_parser, _tables(reasoning)),
        }
        self.env: Mapping[str, Any] = importlib.import_module("vllm.envs").environment_variables
        self._validate = attribute(ARGUMENTS, "validate_parsed_serve_args")
        self._command, self._serve = _command_parser()

    def check(self, service: Service) -> list[Finding]:
        """Find everything that is wrong with one service."""
        argv, found = without_config(here(service.argv, service.plugins_dir))
        found += env_findings(service.env, self.env, "--fail-on-environ-validation" in argv)
        tables = [table for _, tables in self.parsers.values() for table in tables]
        with environment(service.env), plugins_apart(service.plugins_dir, tables):
            found += self._env_values(service.env)
            found += plugin_findings(argv)
            try:
                parsed = self._parse(argv)
            except RefusedError as error:
                return found + parse_findings(str(error), self._serve._option_string_actions)
            found += abbreviations(argv, self._serve._option_string_actions)
            return found + self._parser_findings(parsed)

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

    def _parser_findings(self, parsed: argparse.Namespace) -> list[Finding]:
        """Resolve the names of tool and reasoning parsers, and import what they stand for."""
        found = []
        for flag, (load, tables) in self.parsers.items():
            name = getattr(parsed, flag.replace("-", "_"), None)
            if not name:
                continue
            unknown = parser_finding(flag, name, {known for table in tables for known in table})
            if unknown:
                found.append(unknown)
                continue
            try:
                load(name)
            except Exception as error:  # noqa: BLE001 - imports modules of vLLM or of a plugin
                message = f"names the parser `{name}`, which cannot be loaded: {said(error)}"
                remedy = "Choose another parser or image"
                found.append(Finding("parser-broken", "error", f"args.{flag}", message, remedy))
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


def check_all(services: Mapping[str, Service]) -> dict[str, Any]:
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
    # vLLM logs to stdout, which belongs to the answer: everything else goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        answers = check_all(services)
        json.dump(answers, out, indent=1, sort_keys=True)
        out.write("\n")
    return 0 if all(a["ok"] for a in answers.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
