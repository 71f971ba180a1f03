#!/usr/bin/env python3
"""Write docs/reference and CHANGELOG.md anew.

Usage: .venv/bin/python scripts/docs.py [FOLDER]     (default: the project)

Roles and modules come from ansible-doc, keys of the declaration from module_utils/llm/declare/variables.py, rules from
rulebook.py beside it, experiments from docs/experiments/*.yml, catalogs from group_vars/all, playbooks from their first
comment, changes from changelogs/. The same input gives the same bytes.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from ansible.module_utils.llm.declare import renamed, values  # noqa: E402 - the path comes first
from ansible.module_utils.llm.declare.objects import Gpu, Image, Model, Recipe, Service, Settings  # noqa: E402 - the path comes first
from ansible.module_utils.llm.declare.schema import Field, Keys, OneOf, Schema  # noqa: E402 - the path comes first
from ansible.module_utils.llm.declare.variables import OWNED_ENV, OWNED_FLAGS, SETTINGS, STATUSES, VARIABLES  # noqa: E402 - the path comes first
from ansible.module_utils.llm.fit import rulebook, rules  # noqa: E402 - the path comes first
from ansible.module_utils.llm.plan.selection import STAGES  # noqa: E402 - the path comes first

NAMES = "docs/reference/names.txt"
CITED = re.compile(r"experiment ([a-z0-9-]+)")  # as reasons of services do
PLACES = {"CHANGELOG.md": "CHANGELOG.md", "experiments.md": "docs/experiments/README.md"}
# What an experiment says, all of it required; `numbers` is a list of sentences.
EXPERIMENT = ("what", "engine", "version", "model", "flag", "hardware", "date", "numbers", "verdict", "source")
SECTIONS = {"added": "Added", "changed": "Changed", "removed": "Removed", "fixed": "Fixed", "security": "Security"}
# Where the defaults of a shape's keys are.
CLASSES = {
    "llm_images": Image,
    "llm_models": Model,
    "llm_recipes": Recipe,
    "llm_services": Service,
    "llm_host_gpus": Gpu,
}


def main() -> None:
    """Write all files below the folder that was given."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for path, content in render().items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")


def render() -> dict[str, str]:
    """Path below the project to content, of every generated file."""
    roles = described("role", [p.parent.parent.name for p in (ROOT / "roles").glob("*/meta/argument_specs.yml")])
    modules = described("module", [p.stem for p in (ROOT / "library").glob("llm_*.py")])
    options = {role: flat(entry["entry_points"]["main"]["options"], "options") for role, entry in roles.items()}
    values: dict[str, Any] = {
        "roles": {role: {**entry["entry_points"]["main"], "rows": options[role]} for role, entry in roles.items()},
        "modules": {
            module: {
                **entry,
                "options": flat(entry["doc"].get("options", {}), "suboptions"),
                "return": flat(entry["return"] or {}, "contains"),
            }
            for module, entry in modules.items()
        },
        "sections": list(sections()),
        "owned": {"args": OWNED_FLAGS, "env": OWNED_ENV},
        "catalogs": {kind: catalog(kind) for kind in ("images", "models", "recipes", "services")},
        "statuses": STATUSES,
        "playbooks": playbooks(),
        "stages": STAGES,
        "renamed": renamed.RENAMED,
        **faults(),
        "releases": releases(ROOT / "changelogs"),
        "titles": SECTIONS,
        "sources": sources,
        "rules": rules.book(),
        "matches": matches,
        "experiments": experiments(ROOT / "docs" / "experiments"),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "scripts" / "reference"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown of our own files
    )
    environment.filters.update(cell=cell, shown=shown, prose=prose, slug=slug, stem=lambda path: Path(path).stem)
    found = {}
    for template in sorted((ROOT / "scripts" / "reference").glob("*.md.j2")):
        place = PLACES.get(template.stem, f"docs/reference/{template.stem}")
        found[place] = environment.get_template(template.name).render(values).rstrip() + "\n"
    names = sorted({*public(values["sections"]), *(name for rows in options.values() for name in rows)})
    forgotten(names, (ROOT / NAMES).read_text(encoding="utf-8").split() if (ROOT / NAMES).is_file() else [])
    found[NAMES] = "".join(f"{name}\n" for name in names)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Reading.


def described(kind: str, names: Iterable[str]) -> dict[str, Any]:
    """What ansible-doc says about roles or modules, by name."""
    names = sorted(names)
    command = [str(Path(sys.executable).parent / "ansible-doc"), "-t", kind, "--json", *names]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(ran.stdout) if ran.returncode == 0 else {}
    if sorted(found) != names:
        sys.exit(f"docs: ansible-doc -t {kind} did not describe {', '.join(set(names) - set(found))}.\n{ran.stderr}")
    return found


def flat(options: Mapping[str, Any], below: str, parent: str = "") -> dict[str, Any]:
    """Options with those below them, by dotted name (`gateway_routes.*.service`)."""
    found = {}
    for name, option in options.items():
        here = f"{parent}{name}"
        found[here] = option
        if option.get(below):
            many = ".*." if option.get("type") == "list" else "."
            found |= flat(option[below], below, here + many)
    return found


def catalog(kind: str) -> dict[str, Any]:
    """A catalog as the project ships it."""
    text = (ROOT / "group_vars" / "all" / f"{kind}.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)[f"llm_{kind}"]
    return found


def playbooks() -> dict[str, str]:
    """Path of every playbook to its first comment."""
    found = {}
    for path in [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]:
        comment = re.match(r"---\n((?:# .*\n)+)", path.read_text(encoding="utf-8"))
        name = str(path.relative_to(ROOT))
        if comment is None:
            sys.exit(f"docs: {name} does not begin with a comment that says what it does. Add one below the dashes.")
        found[name] = " ".join(line.removeprefix("# ") for line in comment[1].splitlines())
    return found


def faults() -> dict[str, Any]:
    """The table of faults: {faults: {row: {fault, expected, gpu, missing, tests}}, machines}.

    A test of a row: {file, name, what, by, result, recovery}. Ends the program for a marker without a row.
    """
    folder = ROOT / "tests" / "faults"
    rows: dict[int, dict[str, Any]] = yaml.safe_load((folder / "rows.yml").read_text(encoding="utf-8"))
    place = folder / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    found: dict[int, dict[str, Any]] = {
        row: {"gpu": False, "missing": "", **entry, "tests": []} for row, entry in rows.items()
    }
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        for test, row, what, by in fault_markers(path.read_text(encoding="utf-8")):
            file = str(path.relative_to(ROOT))
            if row not in found:
                sys.exit(f"docs: {file}: {test} is a test of row {row}, which tests/faults/rows.yml does not have.")
            result = results.get(f"{file}::{test}", {})
            found[row]["tests"].append(
                {
                    "file": file,
                    "name": test,
                    "what": what,
                    "by": by,
                    "result": f"{'passed' if result['passed'] else '**failed**'} {result['date']}" if result else "",
                    "recovery": recovery(result),
                }
            )
    return {"faults": dict(sorted(found.items())), "machines": sorted({r["machine"] for r in results.values()})}


def recovery(result: Mapping[str, Any]) -> str:
    """What a test measured, in short; see NUMBERS of tests/faults/record.py."""
    said = {
        "found_seconds": "found after {:g} s",
        "boot_seconds": "recorded boot {:g} s",
        "refused_seconds": "refused after {:g} s",
        "kills": "{} runs killed",
        "busy_seconds": "busy for {:.0f} s",
        "answers": "{:g} answers",
        "stillest_seconds": "no token for {:g} s at most",
        "silent_seconds": "nobody asked for {:.0f} s",
        "unknown_seconds": "supervisor in the dark for {:g} s at most",
    }
    more = "; ".join(text.format(result[key]) for key, text in said.items() if key in result)
    seconds = f"{result['recovery_seconds']:g} s" if "recovery_seconds" in result else ""
    return f"{seconds} ({more})" if seconds and more else seconds or more


def fault_markers(source: str) -> Iterator[tuple[str, int, str, str]]:
    """(test, row, what, by) of every `@pytest.mark.fault(row, what, by=...)` in a file of tests."""
    for test in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                row, what = (ast.literal_eval(argument) for argument in mark.args)
                yield test.name, row, what, next((ast.literal_eval(k.value) for k in mark.keywords), "real")


def releases(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Version ("" for what is not released) to section to changes, newest first."""
    by_age = sorted(
        (p for p in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)*", p.name)),
        key=lambda p: [int(part) for part in p.name.split(".")],
        reverse=True,
    )
    return {"": changes(folder / "fragments")} | {p.name: changes(p) for p in by_age}


def changes(folder: Path) -> dict[str, list[str]]:
    """Section to changes, of the fragments in a folder. Ends the program for a fragment that is not well-formed."""
    found: dict[str, list[str]] = {section: [] for section in SECTIONS}
    numbers: dict[str, str] = {}
    for path in sorted(folder.glob("*")):
        name = re.fullmatch(r"(\d{4})-[a-z0-9-]+\.yml", path.name)
        if name is None:
            sys.exit(f"docs: {path}: its name must be <4 digits>-<words>.yml.")
        if name[1] in numbers:
            sys.exit(f"docs: {path}: has the number of {numbers[name[1]]}. Take the next free one.")
        numbers[name[1]] = path.name
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            sys.exit(f"docs: {path}: is no YAML: {error}")
        if not isinstance(content, dict) or not content:
            sys.exit(f"docs: {path}: must be a mapping of {', '.join(SECTIONS)}.")
        for section, entries in content.items():
            if section not in SECTIONS:
                sys.exit(f"docs: {path}: `{section}` is no section. Known: {', '.join(SECTIONS)}.")
            if not isinstance(entries, list) or not all(isinstance(e, str) and e.endswith(".") for e in entries):
                sys.exit(f"docs: {path}: `{section}` must be a list of sentences. Quote one with a colon in it.")
            found[section] += entries
    return {section: entries for section, entries in found.items() if entries}


def experiments(folder: Path) -> dict[str, dict[str, Any]]:
    """Id (the name of the file) to what was tried. Ends the program for one that is not well-formed."""
    found = {}
    for path in sorted(folder.glob("*.yml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            sys.exit(f"docs: {path}: is no YAML: {error}")
        if not isinstance(content, dict) or set(content) != set(EXPERIMENT):
            sys.exit(f"docs: {path}: must be a mapping with exactly {', '.join(EXPERIMENT)}.")
        numbers = content["numbers"]
        if not isinstance(numbers, list) or not numbers or not all(isinstance(n, str) for n in numbers):
            sys.exit(f"docs: {path}: `numbers` must be a list of sentences. Quote one with a colon in it.")
        found[path.stem] = content
    cited = {e for rule in rules.book().values() for e in rule.experiments}
    cited |= set(CITED.findall((ROOT / "group_vars" / "all" / "services.yml").read_text(encoding="utf-8")))
    if missing := sorted(cited - set(found)):
        sys.exit(f"docs: rules or services cite experiments that are not in {folder}: {', '.join(missing)}.")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The declaration.


def sections() -> Iterator[dict[str, Any]]:
    """Tables of the declaration: {name, about, rows: [{name, accepts, below, required, default, about}]}."""
    settings = {f"llm_{name}": key for name, key in SETTINGS.items()}
    defaults = {f"llm_{name}": value for name, value in _defaults(Settings).items()}
    yield {"name": "", "about": "", "rows": _rows("", {**VARIABLES, **settings}, defaults)}
    for variable, key in VARIABLES.items():
        if not variable.endswith("_custom"):
            yield from _below(variable, key, _defaults(CLASSES[variable]) if variable in CLASSES else {})
    for variable, key in settings.items():
        yield from _below(variable, key, {})


def _below(name: str, key: Field, defaults: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    place, check = _inside(name, key.check)
    if not isinstance(check, (Keys, OneOf)):
        return
    shape = check.shape if isinstance(check, Keys) else {**check.kinds, **check.options}
    kinds = list(check.kinds) if isinstance(check, OneOf) else []
    custom = f"{name}_custom" if f"{name}_custom" in VARIABLES else ""
    yield {"name": place, "about": key.about, "custom": custom, "kinds": kinds, "rows": _rows(place, shape, defaults)}
    for inner, entry in shape.items():
        yield from _below(f"{place}.{inner}", entry, {})


def _inside(name: str, check: values.Check) -> tuple[str, values.Check]:
    """Through lists and mappings by name to what their items are."""
    while isinstance(check, (values.ListOf, values.MapOf)):
        name, check = f"{name}.*", check.item
    return name, check


def _rows(place: str, shape: Schema, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, key in shape.items():
        below, check = _inside(f"{place}.{name}" if place else name, key.check)
        rows.append(
            {
                "name": name,
                "accepts": accepts(key.check),
                "below": below.replace("_custom", "") if isinstance(check, (Keys, OneOf)) else "",
                "required": key.required,
                "default": defaults.get(name, key.default),
                "about": key.about,
            }
        )
    return rows


def _defaults(cls: Any) -> dict[str, Any]:
    """Defaults of a dataclass; empty ones stand for nothing given, and are left out."""
    found = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    return {name: value for name, value in found.items() if value or value is False}


def accepts(check: values.Check) -> str:
    """What a check accepts, in the words in which it refuses."""
    if isinstance(check, values.ListOf):
        return f"list, each {accepts(check.item)}"
    if isinstance(check, values.MapOf):
        return f"mapping of {check.what} to {accepts(check.item)}"
    if isinstance(check, (Keys, OneOf)):
        return "a mapping"
    if check is values.name:
        return "a name"
    return check(None).removeprefix("must be ").partition(", got ")[0]


def public(tables: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Names of all variables and keys that inventories may write."""
    for table in tables:
        for row in table["rows"]:
            yield f"{table['name']}.{row['name']}".lstrip(".")


def forgotten(names: Iterable[str], before: Iterable[str]) -> None:
    """End the program when a name that was known before is gone and nothing says what became of it."""
    old = tuple(entry.old for entry in renamed.RENAMED)
    gone = [n for n in sorted(set(before) - set(names)) if not any(n == o or n.startswith(f"{o}.") for o in old)]
    if gone:
        sys.exit(
            f"docs: no longer known: {', '.join(gone)}. Inventories may use what {NAMES} lists: say in RENAMED of"
            " module_utils/llm/declare/renamed.py what became of it."
        )


# ---------------------------------------------------------------------------------------------------------------------
# Writing.


def prose(text: str | list[str]) -> str:
    """Ansible's markup as Markdown, paragraphs joined."""

    def plain(match: re.Match[str]) -> str:
        kind, inner = match.groups()
        if kind == "M" and inner.startswith("llm_"):
            return f"[`{inner}`](modules.md#{inner})"
        return f"`{inner}`"

    return re.sub(r"\b(C|O|V|E|M|I|B|RV)\(([^()]*)\)", plain, " ".join([text] if isinstance(text, str) else text))


def shown(value: Any) -> str:
    """A value as one writes it in YAML, as code; "" for none."""
    if value is None:
        return ""
    return "empty" if value in ("", [], {}) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def cell(text: Any) -> str:
    """Text that stays inside one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def matches(rule: rulebook.Rule) -> str:
    """What a rule matches, as code."""
    if rule.by:
        return f"the estimate of module {rule.by}"

    def one(fact: str, condition: Any) -> str:
        several = condition if isinstance(condition, tuple) else (condition,)
        return (
            f"`{fact}` {' or '.join(f'`{json.dumps(c) if not isinstance(c, str) else c}`' for c in several)}".replace(
                "``", "no tag"
            )
        )

    text = ", ".join(one(f, c) for f, c in rule.when.items())
    return text + (f"; not with {', '.join(one(f, c) for f, c in rule.unless.items())}" if rule.unless else "")


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def sources(entry: Mapping[str, Any]) -> str:
    """Where an image or a model comes from, in order."""
    found = []
    for source in entry["sources"]:
        kind, value = next(iter(source.items()))
        found.append(f"{kind} `{value}`" if isinstance(value, str) else kind)
    return "; ".join(found)


if __name__ == "__main__":
    main()
