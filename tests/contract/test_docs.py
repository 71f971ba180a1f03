"""Generated pages are current, links lead somewhere, fragments are well-formed, and no public name goes unnoticed."""

import difflib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.llm import VERSION
from ansible.module_utils.llm.declare import parse, renamed
from ansible.module_utils.llm.declare.schema import Keys
from ansible.module_utils.llm.declare.variables import VARIABLES
from ansible.module_utils.llm.images import images
from ansible.module_utils.llm.plan.selection import STAGES
from markdown_it import MarkdownIt

from tests import catalogs

ROOT = catalogs.ROOT
COMMAND = [sys.executable, "scripts/docs.py"]
GENERATED = ("docs/reference/*", "docs/experiments/README.md", "CHANGELOG.md")
FAKE = renamed.Renamed


def load() -> ModuleType:
    place = importlib.util.spec_from_file_location("llm_docs", ROOT / "scripts" / "docs.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


docs = load()


def generated(folder: Path) -> dict[str, str]:
    paths = [p for pattern in GENERATED for p in folder.glob(pattern)]
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(paths)}


def ran(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, to break."""
    for name in (
        *("action_plugins", "callback_plugins", "changelogs", "docs", "group_vars", "inventory", "library"),
        *("module_utils", "playbooks", "roles", "scripts", "ansible.cfg", "site.yml", "CHANGELOG.md"),
        "tests/faults",
    ):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- generated pages ----------------------------------------------------------------------------------------------------


def test_generated_pages_are_current(tmp_path: Path) -> None:
    done = ran([*COMMAND, str(tmp_path)], ROOT)
    assert done.returncode == 0, done.stderr
    wanted, there = generated(tmp_path), generated(ROOT)
    stale = [name for name in sorted({*wanted, *there}) if wanted.get(name) != there.get(name)]
    if stale:
        first = stale[0]
        before, after = (t.get(first, "").splitlines() for t in (there, wanted))
        names = f"{first} (there)", f"{first} (from the code)"
        shown = list(difflib.unified_diff(before, after, *names, n=0, lineterm=""))
        more = [f"... {len(shown) - 20} lines more"] if len(shown) > 20 else []
        told = "\n".join([f"Stale: {', '.join(stale)}. Run `make docs` and commit them.", *shown[:20], *more])
        pytest.fail(told, pytrace=False)


def test_defaults_of_nested_keys_are_those_of_the_code() -> None:
    """Where the code that has a default must not import the tables."""
    smoke = yaml.safe_load(importlib.import_module("llm_smoke").DOCUMENTATION)["options"]["ask"]["suboptions"]
    service: Any = VARIABLES["llm_services"].check
    for name, key in service.item.shape["smoke"].check.shape.items():
        if name == "margin":
            continue  # the plan's alone; the module measures it
        assert smoke[name].get("default") == key.default, name
    sources: Any = VARIABLES["llm_images"].check
    build = sources.item.shape["sources"].check.item.kinds["build"].check.shape
    written = images.dockerfile({"pip": ["a"], "files": {"/b": {"content": ""}}}, "base", images.Lent())
    assert f"python3 -m venv {build['venv'].default}" in written
    assert f"COPY --chmod={build['files'].check.item.shape['mode'].default} " in written


# -- links --------------------------------------------------------------------------------------------------------------

MARKDOWN = MarkdownIt("commonmark").enable("table")
PAGES = sorted(
    p
    for pattern in ("*.md", "docs/**/*.md", "roles/**/*.md", "tests/**/*.md", "molecule/**/*.md", "inventory/**/*.md")
    for p in ROOT.glob(pattern)
)


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    tokens = MARKDOWN.parse(page.read_text())
    headings = [tokens[n + 1] for n, token in enumerate(tokens) if token.type == "heading_open"]
    found: list[str] = []
    for heading in headings:
        text = "".join(t.content for t in heading.children or [] if t.type in ("text", "code_inline"))
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        used = sum(re.sub(r"-\d+$", "", f) == slug for f in found)
        found.append(f"{slug}-{used}" if used else slug)
    return set(found)


def links(page: Path) -> list[str]:
    inline = [t for token in MARKDOWN.parse(page.read_text()) for t in token.children or []]
    targets = [str(t.attrGet("href") or t.attrGet("src")) for t in inline if t.type in ("link_open", "image")]
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def broken(page: Path, link: str) -> str:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{link}: there is no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: there is no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [problem for link in links(page) if (problem := broken(page, link))] == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Some `code` here\n\n[a](#some-code-here) [b](#elsewhere) [c](gone.md) [d](https://x.org/#y)\n")
    assert [broken(page, link) for link in links(page)] == [
        "",
        "#elsewhere: there is no such heading",
        "gone.md: there is no such file",
    ]


# -- one picture, one glossary ------------------------------------------------------------------------------------------

PICTURE = re.compile(r"<!-- whole -->\n```mermaid\n(.*?)```\n", re.DOTALL)
NODE = re.compile(r"\b(\w+)[\[{]\"")
TERM = re.compile(r"- \*\*([a-z -]+)\*\*: \S.*")
GONE = {"door", "front", "look", "pool", "prove", "stranger", "told", "untold"}
"""Words that a term of the field has replaced."""


def test_readme_and_architecture_show_the_same_picture_of_the_whole() -> None:
    drawn = [PICTURE.findall((ROOT / page).read_text()) for page in ("README.md", "docs/architecture.md")]
    assert len(drawn[0]) == 1 and drawn[0] == drawn[1], "copy the picture from one page to the other"
    (picture,) = drawn[0]
    assert len(set(NODE.findall(picture))) <= 20
    stages = set(re.findall(r"\w+", " ".join(re.findall(r"stages? ([a-z, ]+)", picture))))
    assert stages >= {*STAGES} - {"validate"}, "each stage after the plan is in it"


def glossary() -> list[str]:
    """Lines of the glossary's terms."""
    return [line for line in (ROOT / "docs/glossary.md").read_text().splitlines() if line.startswith("-")]


def test_the_glossary_is_short_and_sorted_one_line_a_word() -> None:
    terms = [found[1] if (found := TERM.fullmatch(line)) else line for line in glossary()]
    assert [line for line in glossary() if not TERM.fullmatch(line) or len(line) > 132] == []
    assert terms == sorted(set(terms)) and 0 < len(terms) <= 25
    assert not set(terms) & GONE, "these words are used no longer"


def test_words_of_the_glossary_are_in_use() -> None:
    places = [(f, f"*{ext}") for f in ("module_utils", "library", "playbooks", "roles") for ext in (".py", ".yml")]
    text = "\n".join(p.read_text() for folder, pattern in places for p in (ROOT / folder).rglob(pattern)).lower()
    terms = [line.split("**")[1] for line in glossary()]
    unused = [t for t in terms if not re.search(rf"\b{re.sub('[ -]', '[ _-]?', t)}s?\b", text)]
    assert unused == [], "no code and no playbook has this word"


# -- the README's example -------------------------------------------------------------------------------------------------


def test_the_example_shows_every_key_of_a_service_or_names_it() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## A service in full\n")[2].partition("\n## ")[0]
    example = next(t.content for t in MARKDOWN.parse(section) if t.type == "fence" and t.info == "yaml")
    left_out = set(re.findall(r"`([a-z_.]+)`", section.partition("Left out")[2].partition("\n\n")[0]))
    services = yaml.safe_load(example)["llm_services_custom"]
    _, findings = parse.parse({**catalogs.raw("rtx4090x3"), "services": services, "host_services": list(services)})
    assert [f.text() for f in findings] == []
    known, shown = set(), set()
    (entry,) = services.values()
    everything: Any = VARIABLES["llm_services"].check
    for name, key in everything.item.shape.items():
        inner = key.check.shape if isinstance(key.check, Keys) else {}
        known |= {f"{name}.{below}" for below in inner} or {name}
        if name in entry:
            shown |= {f"{name}.{below}" for below in entry[name]} if inner else {name}
    assert shown | left_out == known
    assert not shown & left_out


# -- renamed names ----------------------------------------------------------------------------------------------------------


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_the_table_of_renamed_names_is_right() -> None:
    names = set((ROOT / docs.NAMES).read_text().split())
    old = [entry.old for entry in renamed.RENAMED]
    assert len(old) == len(set(old))
    for entry in renamed.RENAMED:
        assert entry.old not in names, f"{entry.old} is still known"
        assert not entry.new or entry.new in names, f"{entry.old}: its new name {entry.new} is not known"
        assert entry.new or entry.note, f"{entry.old} was removed: the note has to say what to do"
        assert release(entry.since) <= release(VERSION), entry.old
    for entry in renamed.RENAMED:  # keys of declarations are found by the plan, in the catalogs and in both inventories
        users = [] if "." in entry.old else [p for p in sources() if re.search(rf"\b{entry.old}\b", p.read_text())]
        assert not users, f"{entry.old} is still used in {users}"


def sources() -> list[Path]:
    """Files of the project that may name variables, without those that tell its past."""
    past = {"CHANGELOG.md", "module_utils/llm/declare/renamed.py", "docs/reference/renamed.md"}
    listed = [ROOT / name for name in ran(["git", "ls-files"], ROOT).stdout.splitlines()]
    assert listed
    return [
        p
        for p in listed
        if p.suffix in {".cfg", ".j2", ".md", ".py", ".sh", ".yml"}
        and p.is_file()
        and str(p.relative_to(ROOT)) not in past
        and not str(p.relative_to(ROOT)).startswith("changelogs/")
    ]


TABLE = (
    FAKE("llm_gpus", "llm_host_gpus", "0.1.0"),
    FAKE("gateway_ports", "", "0.1.0", "The ports come from the services."),
    FAKE("llm_services.*.limits.shm", "llm_services.*.limits.shm_size", "0.1.0"),
    FAKE("llm_services.*.max_len", "llm_services.*.args", "0.1.0", "Write the flag `max-model-len` there."),
)


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("llm_gpus", "was renamed in version 0.1.0", "Write `llm_host_gpus`."),
        ("gateway_ports", "was removed in version 0.1.0", "The ports come from the services."),
        ("llm_services.chat.limits.shm", "was renamed in version 0.1.0", "Write `shm_size`."),
        ("llm_services.chat.shm", "", ""),
        ("llm_gpu", "", ""),
    ],
)
def test_an_old_name_has_a_successor(name: str, message: str, remedy: str) -> None:
    assert renamed.successor(name, TABLE) == (message, remedy)


def test_an_inventory_with_old_names_is_refused_with_the_new_ones(project: Path) -> None:
    entries = "".join(f"    {entry!r},\n" for entry in TABLE)
    table = project / "module_utils" / "llm" / "declare" / "renamed.py"
    replace(table, "RENAMED: tuple[Renamed, ...] = (", f"RENAMED: tuple[Renamed, ...] = (\n{entries}")
    (project / "inventory/demo/host_vars/localhost.yml").write_text(
        "---\n"
        "llm_accelerator: cpu\n"
        "llm_host_services: [micro-cpu]\n"
        "llm_gpus: []\n"
        "gateway_ports: 5\n"
        "llm_services_custom:\n"
        "  micro-cpu:\n"
        "    max_len: 5\n"
        "    limits:\n"
        "      pids: 512\n"
        "      shm: 1g\n"
    )
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory/demo", "playbooks/validate.yml"]
    done = ran(command, project)
    assert done.returncode != 0
    file = "inventory/demo/host_vars/localhost.yml"
    for line in (
        f"llm_gpus ({file}:4): was renamed in version 0.1.0. Write `llm_host_gpus`.",
        f"gateway_ports ({file}:5): was removed in version 0.1.0. The ports come from the services.",
        f"llm_services.micro-cpu.max_len ({file}:8): was renamed in version 0.1.0. Write `args`. Write the flag `max-model-len`",
        f"llm_services.micro-cpu.limits.shm ({file}:11): was renamed in version 0.1.0. Write `shm_size`.",
    ):
        assert line in done.stdout


@pytest.mark.parametrize(
    ("path", "old", "new", "name"),
    [
        ("roles/gateway/meta/argument_specs.yml", "gateway_memory:", "gateway_ram:", "gateway_memory"),
        (
            "module_utils/llm/declare/variables.py",
            '    "shm_size": Field',
            '    "shm": Field',
            "llm_services.*.limits.shm_size",
        ),
    ],
)
def test_a_name_that_is_gone_without_a_word_is_noticed(project: Path, path: str, old: str, new: str, name: str) -> None:
    replace(project / path, old, new)
    done = ran(COMMAND, project)
    assert done.returncode == 1
    assert f"no longer known: {name}." in done.stderr and "module_utils/llm/declare/renamed.py" in done.stderr


def test_names_are_gone_for_good_once_the_table_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ["llm_root", "llm_services.*.limits", "llm_services.*.limits.pids"]
    with pytest.raises(SystemExit, match=r"llm_services\.\*\.limits, llm_services\.\*\.limits\.pids"):
        docs.forgotten(["llm_root"], before)
    monkeypatch.setattr(renamed, "RENAMED", (FAKE("llm_services.*.limits", "llm_services.*.bounds", "0.1.0"),))
    docs.forgotten(["llm_root"], before)


# -- experiments ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("what: [", "is no YAML"),
        ("what: a", "must be a mapping with exactly what, engine"),
        ("\n".join(f"{key}: a" for key in docs.EXPERIMENT), "`numbers` must be a list of sentences"),
        (
            "\n".join(f"{key}: {'[a]' if key == 'numbers' else 'a'}" for key in docs.EXPERIMENT),
            "experiments that are not in",
        ),
    ],
)
def test_a_bad_experiment_is_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "one.yml").write_text(content)
    with pytest.raises(SystemExit, match=re.escape(says)):
        docs.experiments(tmp_path)


# -- changes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fragments", "says"),
    [
        ({"12-short.yml": "added: [A thing.]"}, "4 digits"),
        ({"0001-a.yml": "added: [A.]", "0001-b.yml": "added: [B.]"}, "has the number of 0001-a.yml"),
        ({"0001-a.yml": "new: [A thing.]"}, "`new` is no section. Known: added, changed, removed, fixed, security"),
        ({"0001-a.yml": "added: A thing."}, "must be a list of sentences"),
        ({"0001-a.yml": "added:\n  - A service: another thing."}, "Quote one with a colon"),
        ({"0001-a.yml": "added: [no full stop]"}, "must be a list of sentences"),
        ({"0001-a.yml": "added: ["}, "is no YAML"),
        ({"0001-a.yml": ""}, "must be a mapping"),
    ],
)
def test_a_bad_fragment_is_refused(fragments: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, content in fragments.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=re.escape(says)):
        docs.changes(tmp_path)


def test_changes_are_listed_by_version_and_section(tmp_path: Path) -> None:
    for name, content in {
        "fragments/0003-c.yml": "fixed: [C.]",
        "0.9.0/0001-a.yml": "added: [A.]",
        "0.10.0/0002-b.yml": "removed: [B.]\nadded: [D.]",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = docs.releases(tmp_path)
    assert list(found.items()) == [
        ("", {"fixed": ["C."]}),
        ("0.10.0", {"added": ["D."], "removed": ["B."]}),
        ("0.9.0", {"added": ["A."]}),
    ]
