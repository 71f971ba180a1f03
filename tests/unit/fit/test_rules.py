"""Rules: each one speaks, is silenced by its id, and says nothing to a clean declaration; catalogs break exactly the known ones."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.fit import estimate, rules
from ansible.module_utils.llm.fit.rulebook import DENSE, FAMILIES, Rule
from ansible.module_utils.llm.plan import declaration as plan_declaration
from ansible.module_utils.llm.plan import placement

from tests import catalogs

GPU = {"index": 0, "model": "NVIDIA GeForce RTX 4090", "memory": "24 GiB"}
CLEAN: dict[str, Any] = {
    "images": {
        "engine": {
            "sources": [{"pull": "docker.io/vllm/vllm-openai:v0.33.0"}],
            "accelerator": "nvidia",
            "engine": {"name": "vllm", "version": "0.33.0"},
        }
    },
    "models": {"model": {"sources": [{"hub": "a/b"}], "thinking": True, "vision": False}},
    "services": {
        "one": {"image": "engine", "model": "model", "port": 5000, "gpus": [0], "args": {"max-model-len": 4096}}
    },
    "host_services": ["one"],
    "gpus": [GPU],
    "settings": {},
}
KINDS = {"image": ("images", "engine"), "model": ("models", "model"), "service": ("services", "one")}


def declaration(example: Mapping[str, Any], accept: Mapping[str, str] | None = None) -> dict[str, Any]:
    """CLEAN with an example of the rulebook. gpus: GPUs as declared, or their number."""
    raw: Any = CLEAN
    example = dict(example)
    gpus = example.pop("gpus", 1)
    gpus = [{**GPU, "index": i} for i in range(gpus)] if isinstance(gpus, int) else gpus
    raw = parse.merge(raw, {"gpus": gpus, "services": {"one": {"gpus": [g["index"] for g in gpus]}}})
    for part in ("args", "env"):
        raw = parse.merge(raw, {"services": {"one": {part: example.pop(part, {})}}})
    example.pop("config", None)
    for kind, values in example.items():
        catalog, name = KINDS[kind]
        raw = parse.merge(raw, {catalog: {name: values}})
    found: dict[str, Any] = parse.merge(raw, {"services": {"one": {"accept": accept or {}}}})
    return found


def judged(raw: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, list[Finding]]:
    """What a plan says of one host, but for what only the host can tell."""
    declared, findings = parse.parse(raw)
    assert declared is not None, [f.text() for f in findings]
    known = {m: estimate.Known(config) for m in declared.models} if config else {}
    return judge(declared, known)


def judge(declared: Declared, known: Mapping[str, estimate.Known]) -> dict[str, list[Finding]]:
    fits = plan_declaration.estimates(declared, known, None)
    found = {"": [], **plan_declaration.judge(declared)}
    for service, own in plan_declaration.fit_findings(declared, fits).items():
        found[service] += map(rules.cite, own)
    broken = rules.judge(
        declared, {m: k.config for m, k in known.items() if k.config}, placement.deployed(declared), fits
    )
    for service, own in broken.findings.items():
        found[service] += own
    found = rules.silence(declared, found, broken.undecided)
    found[""] += rules.accept_findings(declared)
    return found


def said(findings: Mapping[str, list[Finding]]) -> dict[str, str]:
    """Id to severity."""
    return {f.id: f.severity for own in findings.values() for f in own}


@pytest.mark.parametrize("rule", rules.book().values(), ids=lambda r: r.id)
def test_every_rule_speaks_and_can_be_silenced(rule: Rule) -> None:
    config = rule.example.get("config")
    found = judged(declaration(rule.example), config)
    own = [f for f in found["one"] if f.id == rule.id]
    assert own, f"{rule.id} says nothing to its example, which breaks {said(found)}"
    for finding in own:
        # An estimate refuses only when it is sure.
        assert finding.severity == rule.severity or (rule.by and finding.severity == "warn")
        assert "?" not in finding.message, "a fact that it names is not known"
        assert rule.id in finding.message and finding.remedy
        assert all(e in finding.message for e in rule.experiments)
    others = {i: s for i, s in said(found).items() if i != rule.id}
    accepted = judged(declaration(rule.example, {rule.id: "measured here"}), config)
    assert said(accepted) == {**others, rule.id: "info"}
    (finding, *_) = [f for f in accepted["one"] if f.id == rule.id]
    assert finding.accepted == "measured here" and "accepted: measured here" in finding.text()
    assert finding.as_dict()["accepted"] == "measured here"


def test_a_clean_declaration_breaks_no_rule() -> None:
    assert said(judged(CLEAN)) == {}
    assert said(judged(CLEAN, DENSE)) == {}


# -- accepting --------------------------------------------------------------------------------------------------------------

OLD = {"image": {"engine": {"name": "vllm", "version": "0.32.0"}}}
ADVISORY = "GHSA-5r3c-5x4v-8gjh"


def test_an_image_accepts_advisories_for_all_services_that_run_it() -> None:
    assert said(judged(declaration(OLD))) == {ADVISORY: "error"}
    found = judged(parse.merge(declaration(OLD), {"images": {"engine": {"accept": {ADVISORY: "no newer build"}}}}))
    assert said(found) == {ADVISORY: "info"}
    assert found["one"][0].accepted == "no newer build"


@pytest.mark.parametrize(
    ("raw", "key", "remedy"),
    [
        (
            {"services": {"one": {"accept": {"eager-on-gp": "x"}}}},
            "llm_services.one.accept.eager-on-gp",
            "Did you mean `eager-on-gpu`?",
        ),
        (
            {"services": {"one": {"accept": {"gpu-undeclared": "x"}}}},
            "llm_services.one.accept.gpu-undeclared",
            "docs/reference/rules.md lists them; other errors have to be corrected",
        ),
        (
            {"images": {"engine": {"accept": {"eager-on-gpu": "x"}}}},
            "llm_images.engine.accept.eager-on-gpu",
            "Move it to the service",
        ),
        (
            {"images": {"engine": {"accept": {"CVE-2026-4874": "x"}}}},
            "llm_images.engine.accept.CVE-2026-4874",
            "Did you mean `CVE-2026-48746`?",
        ),
    ],
)
def test_an_id_that_names_nothing_is_refused(raw: dict[str, Any], key: str, remedy: str) -> None:
    found = judged(parse.merge(CLEAN, raw))[""]
    assert [(f.id, f.severity, f.key, f.remedy) for f in found] == [("accept-unknown", "error", key, remedy)]


def test_what_is_accepted_in_vain_is_told() -> None:
    found = judged(declaration({}, {"eager-on-gpu": "x"}))
    assert [(f.id, f.severity, f.key) for f in found["one"]] == [
        ("accept-stale", "warn", "llm_services.one.accept.eager-on-gpu")
    ]
    found = judged(parse.merge(CLEAN, {"images": {"engine": {"accept": {ADVISORY: "x"}}}}))
    assert [f.key for f in found[""]] == [f"llm_images.engine.accept.{ADVISORY}"]


def test_a_reason_for_what_is_not_known_yet_is_not_in_vain() -> None:
    """The same declaration is judged with and without the model's configuration, before and after it was fetched."""
    raw = declaration({}, {"tp-heads": "x", "does-not-fit": "y"})
    assert said(judged(raw)) == {}
    assert said(judged(raw, DENSE)) == {"accept-stale": "warn"}


def test_errors_of_shape_and_place_cannot_be_accepted() -> None:
    raw = parse.merge(CLEAN, {"services": {"one": {"gpus": [7], "accept": {"gpu-undeclared": "x"}}}})
    assert {"gpu-undeclared": "error", "accept-unknown": "error"}.items() <= said(judged(raw)).items()


def test_what_would_refuse_a_service_that_is_not_to_run_is_told() -> None:
    raw = declaration({"args": {"enforce-eager": True}, "service": {"state": "stopped"}})
    assert said(judged(raw)) == {"eager-on-gpu": "warn"}


# -- conditions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "value", "held"),
    [
        ("<0.22", rules.Version.of("0.21.3"), True),
        ("<0.22", rules.Version.of("v0.22.0+cpu"), False),
        (">=0.26 <0.33", rules.Version.of("0.32.0"), True),
        (">=0.26 <0.33", rules.Version.of("0.33"), False),
        ("<0.9", rules.Version.of("0.10"), False),
        (">1", 2, True),
        (">1", "2", True),
        (">1", True, False),
        (">=32768", "32K", True),
        ("<1", "auto", False),
        ("<1", 10**400, False),
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        ("fp8*", "fp8_e5m2", True),
        ("fp8*", "auto", False),
        (("a", "b*"), "bc", True),
        ("set", False, True),
        ("9.0", frozenset({"8.9", "9.0"}), True),
        ("9.0", frozenset(), False),
    ],
)
def test_conditions(condition: Any, value: Any, held: bool) -> None:
    assert rules.holds(condition, value) is held


@pytest.mark.parametrize(
    ("args", "fact", "value"),
    [
        ({"speculative-config": '{"method": "ngram"}'}, "args.speculative-config.method", "ngram"),
        ({"speculative-config": "{not json"}, "args.speculative-config", "{not json"),
        ({"no-enforce-eager": False}, "args.enforce-eager", True),
        ({"dtype": "half"}, "dtype", "float16"),
        ({"tensor-parallel-size": 2}, "missing.gpus", 1),
    ],
)
def test_facts_of_a_service(args: dict[str, Any], fact: str, value: Any) -> None:
    declared, _ = parse.parse(declaration({"args": args}))
    assert declared is not None
    assert rules.facts(declared, declared.services["one"])[fact] == value


def test_tags_of_an_image_are_those_of_everything_it_is_built_on() -> None:
    base = {"sources": [{"pull": "127.0.0.1:5000/x/base"}, {"pull": "x/base:1@sha256:" + "0" * 64}]}
    raw = parse.merge(CLEAN, {"images": {"base": base, "engine": {"sources": [{"build": {"base": "base"}}]}}})
    declared, findings = parse.parse(raw)
    assert declared is not None, findings
    assert rules.facts(declared, declared.services["one"])["image.tags"] == {""}


# -- what comes with the project ----------------------------------------------------------------------------------------------


def test_parsers_of_the_catalog_are_those_of_its_families() -> None:
    models = catalogs.declared("rtx4090x3").models
    assert {m.family for m in models.values()} - {"smollm2"} == set(FAMILIES)


def test_the_box_breaks_exactly_these_rules() -> None:
    """All services, as if they were to run, on the declared cards."""
    raw = catalogs.raw("rtx4090x3")
    raw["host_services"] = raw["settings"]["force"] = [s for s in raw["services"] if s != "micro-cpu"]
    declared, findings = parse.parse(raw)
    assert declared is not None, findings
    configs = {p.stem: json.loads(p.read_text())["config"] for p in (catalogs.ROOT / "files/configs").glob("*.json")}
    found = rules.judge(declared, configs, raw["host_services"], {}).findings
    assert {s: {f.id: f.severity for f in own} for s, own in found.items() if own} == {
        "medium-glm": {"batched-tokens-high": "warn"},
        "mini-zwz": {"batched-tokens-high": "warn"},
    }


def test_the_demo_accepts_the_weaknesses_of_its_engine_and_breaks_nothing_else() -> None:
    declared = catalogs.declared("demo")
    found = rules.judge(declared, {}, declared.host_services, {})
    assert {f.id for f in found.findings["micro-cpu"]} == {ADVISORY}
    settled = rules.silence(declared, found.findings, found.undecided)
    assert said(settled) == {ADVISORY: "info"}


def test_flags_of_the_box_end_the_boot_on_a_hopper() -> None:
    gpus = [{"index": 2, "model": "NVIDIA H100 80GB HBM3", "memory": "80 GiB"}]
    declared = catalogs.declared("rtx4090x3", host_services=["mini-zwz"], host_gpus=gpus)
    config = json.loads((catalogs.ROOT / "files/configs/zwz-8b-awq.json").read_text())["config"]
    found = rules.judge(declared, {"zwz-8b-awq": config}, ["mini-zwz"], {}).findings["mini-zwz"]
    assert {"fp8-kv-half-hopper": "error"}.items() <= {f.id: f.severity for f in found}.items()
