"""Declarations: what is accepted, and that everything else is refused with key and remedy."""

import copy
import datetime
import math
import re
from typing import Any

import pytest
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare import parse, values
from ansible.module_utils.llm.declare.schema import Field, Keys, OneOf, Schema
from ansible.module_utils.llm.declare.variables import OTHERS, SETTINGS, VARIABLES

GOOD: dict[str, Any] = {
    "images": {
        "cpu": {"sources": [{"pull": "x/y:1"}], "accelerator": "cpu", "engine": {"name": "vllm", "version": "1"}}
    },
    "models": {
        "tiny": {"sources": [{"hub": "a/b"}]},
        "small": {"sources": [{"quantize": {"model": "tiny", "recipe": "w4"}}], "quantization": "gptq"},
    },
    "recipes": {
        "w4": {
            "method": "gptq",
            "dataset": {"file": "/srv/text.txt"},
            "quality": {"samples": 8, "perplexity": 1.1, "kl": 0.1},
        }
    },
    "services": {"one": {"image": "cpu", "model": "tiny", "port": 5000, "gpus": []}},
    "host_services": ["one"],
    "gpus": [{"index": 0, "model": "NVIDIA GeForce RTX 4090", "memory": "24 GiB"}],
    "settings": {"accelerator": "cpu"},
}

# Each would write a line of its own into a Dockerfile, or run a command.
BUILDS: tuple[dict[str, Any], ...] = (
    {"base": "cpu", "packages": ["curl\nUSER root"]},
    {"base": "cpu", "pip": ["x==1\nUSER root"]},
    {"base": "cpu", "user": "root\nRUN x"},
    {"base": "cpu", "env": {"A": "1\nRUN x"}},
    {"base": "cpu", "venv": "/opt/$(x)"},
)


def broken(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value replaced; path is dotted, the value `...` removes the key."""
    raw = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    place: Any = raw
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return raw


def test_a_good_declaration_becomes_typed_objects() -> None:
    declared, findings = parse.parse(GOOD)
    assert declared is not None and not findings
    service = declared.services["one"]
    assert (service.served_model_name, service.status, service.port) == ("tiny", "active", 5000)
    assert declared.gpus[0].memory == 24 * GIB


@pytest.mark.parametrize(
    ("path", "value", "finding", "key", "says"),
    [
        ("services.one.port", "5000", "mistyped", "llm_services.one.port", "whole number"),
        ("services.one.port", 70000, "mistyped", "llm_services.one.port", "65535"),
        ("services.one.port", True, "mistyped", "llm_services.one.port", "boolean"),
        ("services.one.port", ..., "missing-key", "llm_services.one.port", "is missing"),
        ("services.one.prot", 1, "unknown-key", "llm_services.one.prot", "not a known key"),
        ("services.one.image", "cpuu", "unknown-image", "llm_services.one.image", "not declared"),
        ("services.one.model", "tinny", "unknown-model", "llm_services.one.model", "not declared"),
        ("services.one.gpus", 0, "mistyped", "llm_services.one.gpus", "list"),
        ("services.one.gpus", [-1], "mistyped", "llm_services.one.gpus", "GPU index"),
        ("services.one.status", "retired", "mistyped", "llm_services.one.status", "active"),
        ("services.one.status", "rejected", "reason-missing", "llm_services.one.reason", "missing"),
        ("services.one.env", {"A": True}, "mistyped", "llm_services.one.env", "quoted text"),
        (
            "services.one.env",
            {"VLLM_API_KEY": "x"},
            "owned-variable",
            "llm_services.one.env.VLLM_API_KEY",
            "llm_service_keys",
        ),
        ("services.one.args", {"--dtype": "half"}, "mistyped", "llm_services.one.args", "without its dashes"),
        ("services.one.args", {"max_model_len": 1}, "flag-spelling", "llm_services.one.args.max_model_len", "spells"),
        (
            "services.one.args",
            {"api-key": "x"},
            "owned-flag",
            "llm_services.one.args.api-key",
            "never from a command line",
        ),
        ("services.one.args", {"dtype": None}, "mistyped", "llm_services.one.args", "nothing"),
        (
            "services.one.args",
            {"gpu-memory-utilization": "most"},
            "mistyped",
            "llm_services.one.args.gpu-memory-utilization",
            "must be a number",
        ),
        ("services.one.accept", ["eager-on-gpu"], "mistyped", "llm_services.one.accept", "mapping"),
        ("services.one.accept", {"eager-on-gpu": " "}, "mistyped", "llm_services.one.accept", "must say why"),
        ("images.cpu.accept", {"CVE-2026-1": None}, "mistyped", "llm_images.cpu.accept", "must say why"),
        ("services.one.limits", {"memory": 16}, "mistyped", "llm_services.one.limits.memory", "unit"),
        (
            "services.one.plugins",
            {"parser": "x.py"},
            "unknown-key",
            "llm_services.one.plugins.parser",
            "not a known key",
        ),
        ("services.One", {}, "bad-name", "llm_services.One", "lower case"),
        ("services", [], "mistyped", "llm_services", "mapping"),
        ("images.cpu.sources", [], "mistyped", "llm_images.cpu.sources", "at least 1"),
        (
            "images.cpu.sources",
            [{"pull": "a", "build": {"base": "cpu"}}],
            "mistyped",
            "llm_images.cpu.sources.0",
            "exactly one",
        ),
        (
            "images.cpu.sources",
            [{"build": {"base": "none"}}],
            "unknown-image",
            "llm_images.cpu.sources.0.build.base",
            "not declared",
        ),
        (
            "images.cpu.sources",
            [{"build": {"base": "cpu"}}],
            "image-cycle",
            "llm_images.cpu.sources.0.build.base",
            "leads back",
        ),
        (
            "images.cpu.sources",
            [{"build": {"base": "deb", "pip": ["x"], "require": ["y"]}}],
            "mistyped",
            "llm_images.cpu.sources.0.build",
            "which makes a Python of its own",
        ),
        (
            "images.cpu.sources",
            [{"build": {"base": "deb", "patches": [{"name": "p", "target": "a.b", "lacks": "x", "after": "("}]}}],
            "missing-key",
            "llm_images.cpu.sources.0.build.patches.0.insert",
            "is missing",
        ),
        (
            "images.cpu.sources",
            [
                {
                    "build": {
                        "base": "deb",
                        "patches": [{"name": "p", "target": "a.b", "lacks": "x", "after": "(", "insert": "y"}],
                    }
                }
            ],
            "mistyped",
            "llm_images.cpu.sources.0.build.patches.0",
            "nothing that has the text of `lacks`",
        ),
        (
            "images.cpu.proofs",
            {"architecture": ["A"]},
            "unknown-key",
            "llm_images.cpu.proofs.architecture",
            "not a known key",
        ),
        ("images.cpu.proofs", {"mla": ["glm4"]}, "mistyped", "llm_images.cpu.proofs.mla", "config.json"),
        ("images.cpu.proofs", {"mla": [{"model_type": "g"}]}, "mistyped", "llm_images.cpu.proofs.mla", "architectures"),
        ("models.tiny.sources", [{"hubb": "a/b"}], "unknown-key", "llm_models.tiny.sources.0.hubb", "not a known key"),
        (
            "models.tiny.sources",
            [{"quantize": {"model": "big", "recipe": "w4"}}],
            "unknown-model",
            "llm_models.tiny.sources.0.quantize.model",
            "not declared",
        ),
        (
            "models.small.sources.0.quantize.recipe",
            "w5",
            "unknown-recipe",
            "llm_models.small.sources.0.quantize.recipe",
            "w5",
        ),
        ("models.tiny.quantization", "fp8", "quantize-twice", "llm_models.small.sources.0.quantize.model", "already"),
        (
            "models.small.sources",
            [{"quantize": {"model": "tiny", "recipe": "w4"}}, {"path": "/srv/small"}],
            "quantize-beside",
            "llm_models.small.sources",
            "beside other sources",
        ),
        ("recipes.w4.method", "w4a16", "mistyped", "llm_recipes.w4.method", "gptq, awq"),
        ("recipes.w4.ignore", ["re:(visual"], "mistyped", "llm_recipes.w4.ignore", "no regular expression"),
        ("recipes.w4.dataset", {"hub": "a/b"}, "missing-key", "llm_recipes.w4.dataset.match", "many files"),
        ("recipes.w4.dataset", {"hub": "a/b", "file": "/c"}, "mistyped", "llm_recipes.w4.dataset", "exactly one"),
        ("recipes.w4.quality", ..., "missing-key", "llm_recipes.w4.quality", "is missing"),
        ("recipes.w4.quality.perplexity", 0.9, "mistyped", "llm_recipes.w4.quality.perplexity", "from 1 to 100"),
        ("models.tiny.vision", "yes", "mistyped", "llm_models.tiny.vision", "true or false"),
        ("models.tiny.revision", "..", "mistyped", "llm_models.tiny.revision", "a branch, tag or commit"),
        ("models.tiny.revision", "a/../b", "mistyped", "llm_models.tiny.revision", "a branch, tag or commit"),
        ("models.tiny.sources", [{"path": "models/x"}], "mistyped", "llm_models.tiny.sources.0.path", "absolute"),
        ("models.tiny.sources", [{"hub": "a b"}], "mistyped", "llm_models.tiny.sources.0.hub", "owner/name"),
        ("images.cpu.sources", [{"pull": "x y:1"}], "mistyped", "llm_images.cpu.sources.0.pull", "repository[:tag]"),
        ("images.cpu.engine.version", "new", "mistyped", "llm_images.cpu.engine.version", "0.33.0"),
        *(
            (
                "images.cpu.sources",
                [{"build": build}],
                "mistyped",
                f"llm_images.cpu.sources.0.build.{list(build)[1]}",
                "got",
            )
            for build in BUILDS
        ),
        ("services.one.args", {"seed": math.nan}, "mistyped", "llm_services.one.args", "nan (number)"),
        ("services.one.args", {"seed": 10**30}, "mistyped", "llm_services.one.args", "whole number"),
        (
            "services.one.args",
            {"dtype": "--trust-remote-code"},
            "mistyped",
            "llm_services.one.args",
            "begins with a dash",
        ),
        ("services.one.args", {"stop": [True]}, "mistyped", "llm_services.one.args", "boolean"),
        ("services.one.args", {"x": datetime.date(2026, 11, 25)}, "mistyped", "llm_services.one.args", "date"),
        ("services.one.args", {"x": {"a": [math.inf]}}, "mistyped", "llm_services.one.args", "inf (number)"),
        ("services.one.args", {"x": {True: 1}}, "mistyped", "llm_services.one.args", "quote it"),
        ("services.one.env", {"A": "1\n2"}, "mistyped", "llm_services.one.env", "one line"),
        ("services.one.volumes", ["data:/data"], "mistyped", "llm_services.one.volumes", "both absolute"),
        ("services.one.volumes", ["/a:/b:rx"], "mistyped", "llm_services.one.volumes", "option 'rx'"),
        ("services.one.volumes", ["/a:/model/x"], "mistyped", "llm_services.one.volumes", "over /model"),
        ("services.one.volumes", ["/a:/x", "/b:/x"], "covered", "llm_services.one.volumes", "`/x`"),
        ("services.one.plugins", {"tool_parser": "../x.py"}, "mistyped", "llm_services.one.plugins.tool_parser", ".."),
        (
            "services.one.plugins",
            {"middleware": ["a-b.py:C"]},
            "mistyped",
            "llm_services.one.plugins.middleware",
            "file:class",
        ),
        (
            "services.one.plugins",
            {"tool_parser": "a/x.py", "reasoning_parser": "b/x.py"},
            "covered",
            "llm_services.one.plugins",
            "`x.py`",
        ),
        ("services.one.limits", {"memory": "1k"}, "mistyped", "llm_services.one.limits.memory", "at least 6m"),
        ("services.one.served_model_name", "a b", "mistyped", "llm_services.one.served_model_name", "one word"),
        ("services.one.description", "\u202eevil", "mistyped", "llm_services.one.description", "must be text"),
        ("gpus", [{"index": 0, "model": "x", "memory": "24g"}] * 2, "mistyped", "llm_host_gpus.1.index", "another GPU"),
        ("settings.bind_address", "everywhere", "mistyped", "llm_bind_address", "IPv4"),
        ("settings.bind_address", "fe80::1%eth0", "mistyped", "llm_bind_address", "IPv6"),
        ("settings.domain", "a..b", "mistyped", "llm_domain", "a domain"),
        ("settings.root", "/opt/../etc", "mistyped", "llm_root", "without .."),
        ("settings.hub_endpoint", "hub.example.org", "mistyped", "llm_hub_endpoint", "https://"),
        ("host_services", ["two"], "unknown-service", "llm_host_services", "not declared"),
        ("host_services", ["one", "one"], "listed-twice", "llm_host_services", "twice"),
        ("host_services", "one", "mistyped", "llm_host_services", "list"),
        ("gpus", [{"index": 0, "model": "x"}], "missing-key", "llm_host_gpus.0.memory", "missing"),
        ("settings.accelerator", "tpu", "mistyped", "llm_accelerator", "cpu, nvidia"),
        ("settings.force", ["nope"], "unknown-service", "llm_force", "not declared"),
    ],
)
def test_bad_declarations_are_refused_by_key(path: str, value: Any, finding: str, key: str, says: str) -> None:
    declared, findings = parse.parse(broken(path, value))
    assert declared is None
    found = [f for f in findings if f.id == finding and f.key == key]
    assert found, [f.text() for f in findings]
    assert says in found[0].message
    assert found[0].remedy


def test_a_key_that_a_method_has_no_use_for_is_refused() -> None:
    raw = broken("recipes.w4.method", "fp8-dynamic")
    assert parse.parse(raw)[0] is not None
    raw["recipes"]["w4"]["group_size"] = 64
    assert "`group_size`" in parse.parse(raw)[1][0].message


@pytest.mark.parametrize(
    ("given", "key", "says"),
    [
        (["sk-secret"], "llm_service_keys", "must be a mapping of service to key"),
        (False, "llm_service_keys", "must be a mapping of service to key"),
        ({"one": True}, "llm_service_keys.one", "got boolean (not shown)"),
        ({"one": 12345}, "llm_service_keys.one", "got whole number (not shown)"),
        ({"one": math.nan}, "llm_service_keys.one", "got number (not shown)"),
        ({"one": ["sk-secret"]}, "llm_service_keys.one", "got list (not shown)"),
        ({"one": "sk-secret\n"}, "llm_service_keys.one", "got text (not shown)"),
        ({"tow": "sk-secret"}, "llm_service_keys.tow", "names no service"),
    ],
)
def test_keys_that_are_none_are_refused_and_not_shown(given: Any, key: str, says: str) -> None:
    keys, (finding,) = parse.service_keys(given, ["one"])
    assert keys == {} and finding.key == key and says in finding.message and finding.remedy
    assert "secret" not in finding.text() and "12345" not in finding.text()


def test_a_key_is_taken_as_it_is() -> None:
    assert parse.service_keys({"one": "sk-abc"}, ["one"]) == ({"one": "sk-abc"}, [])
    assert parse.service_keys(None, ["one"]) == ({}, [])


@pytest.mark.parametrize("value", [False, 0, "", []])
def test_what_is_no_mapping_does_not_count_as_an_empty_catalog(value: Any) -> None:
    _, (ours,) = parse.catalog("services", value, None)
    _, (theirs,) = parse.catalog("services", {}, value)
    assert (ours.key, theirs.key) == ("llm_services", "llm_services_custom")
    assert parse.catalog("services", {"a": 1}, None) == ({"a": 1}, [])


@pytest.mark.parametrize(
    ("variable", "value"),
    [("llm_hub_token", 5), ("llm_hub_token", "hf_x y"), ("llm_pip_mirror", "pypi"), ("llm_report_dir", True)],
)
def test_other_variables_are_checked(variable: str, value: Any) -> None:
    (finding,) = parse.variable_findings({variable: value})
    assert finding.key == variable and finding.remedy
    assert variable == "llm_report_dir" or str(value) not in finding.message
    assert parse.variable_findings(dict.fromkeys(OTHERS)) == []


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("prune", "Yes", True),
        ("offline", "0", False),
        ("repair", "perhaps", "perhaps"),
        ("engine_uid", "64001", 64001),
        ("engine_uid", "-1", "-1"),
        ("force", "micro-cpu, medium", ["micro-cpu", "medium"]),
        ("root", "0", "0"),
        ("prune", True, True),
    ],
)
def test_a_setting_of_the_command_line_is_what_its_text_means(key: str, text: Any, value: Any) -> None:
    assert parse.from_command_line(key, text) == value


def test_a_near_name_is_suggested() -> None:
    _, findings = parse.parse(broken("services.one.gpu", [0]))
    assert "`gpus`" in findings[0].remedy


def test_merge_is_recursive_and_replaces_lists() -> None:
    ours = {"a": {"x": 1, "l": [1, 2]}, "b": 1}
    assert parse.merge(ours, {"a": {"y": 2, "l": [3]}, "c": 3}) == {"a": {"x": 1, "l": [3], "y": 2}, "b": 1, "c": 3}
    assert ours["a"] == {"x": 1, "l": [1, 2]}


@pytest.mark.parametrize(
    ("text", "wanted"), [("16g", 16 * 2**30), ("512 MiB", 2**29), ("1.5GiB", 3 * 2**29), ("1 TB", 2**40)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert values.size_bytes(text) == wanted


def described(shape: Schema, place: str) -> list[str]:
    """Keys of a shape and of all shapes below it whose description is no sentence, or that have none."""
    found = []
    for key, entry in shape.items():
        here = f"{place}.{key}"
        if not (isinstance(entry, Field) and re.fullmatch(r"[A-Z].+\.", entry.about)):
            found.append(here)
            continue
        check: Any = entry.check
        while isinstance(check, (values.ListOf, values.MapOf)):
            check = check.item
        if isinstance(check, Keys):
            found += described(check.shape, here)
        elif isinstance(check, OneOf):
            found += described({**check.kinds, **check.options}, here)
    return found


def test_every_key_is_described() -> None:
    assert described({**VARIABLES, **SETTINGS}, "") == []
    assert described({"a": Field(values.ListOf(Keys({"b": Field(values.text, True, "")})), False, "An a.")}, "") == [
        ".a.b"
    ]


def test_nested_keys_are_named_with_their_place() -> None:
    raw = broken("images.cpu.sources", [{"pull": "x"}, {"build": {"base": "cpu", "files": {"/a.b": {"content": 1}}}}])
    _, findings = parse.parse(raw)
    assert [f.key for f in findings if f.id == "mistyped"] == ["llm_images.cpu.sources.1.build.files./a.b.content"]
