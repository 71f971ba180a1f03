"""Judge services by the rules of module rulebook, and let declared reasons silence them. Pure functions.

A rule yields a finding when all its conditions hold. What is not known (a model without a configuration, a card of no known
name) fulfils no condition: such a rule is open, neither broken nor kept.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.base.spelling import did_you_mean, nearest
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared, Model, Service
from ansible.module_utils.llm.declare.values import COMMIT, size_bytes
from ansible.module_utils.llm.declare.variables import LIMITS
from ansible.module_utils.llm.fit import architecture, estimate, rulebook
from ansible.module_utils.llm.fit.rulebook import Rule
from ansible.module_utils.llm.gpu import nvidia

Facts = Mapping[str, Any]
PAGE = "docs/reference/rules.md"
BITS = {"awq": 4, "gptq": 4, "fp8": 8, "none": 16}
HALF = {"half": "float16", "float": "float32"}


class Version(tuple[int, ...]):
    """A version as numbers, 0.33.0 as (0, 33, 0)."""

    @classmethod
    def of(cls, text: str) -> Version:
        """The numbers that a version begins with; none for text that is no version."""
        found = re.match(r"v?(\d+(?:\.\d+)*)", text)
        return cls(int(part) for part in found[1].split(".")) if found else cls()


# ---------------------------------------------------------------------------------------------------------------------
# The rules, with those that tables of the rulebook make.


@functools.cache
def book() -> Mapping[str, Rule]:
    """All rules by id."""
    listed = [*rulebook.RULES, *_gone(), *_ranges(), *_advisories()]
    return {rule.id: rule for rule in listed}


def advisories() -> frozenset[str]:
    """Rules that an image may accept, not only a service: those about a version, which hold for all services of the image."""
    return frozenset(a.id for a in rulebook.ADVISORIES)


def _gone() -> Iterable[Rule]:
    for entry in rulebook.GONE:
        variable = entry.name.isupper()
        place = f"{'env' if variable else 'args'}.{entry.name}"
        top, _, below = entry.name.partition(".")
        yield Rule(
            id=f"gone-{entry.name.replace('.', '-')}",
            severity="error",
            when={"engine": f">={entry.since}", place: "set"},
            at=place if variable else f"args.{top}",
            message=(f"has `{below}`, which " if below else "")
            + ("is no variable of" if variable else "is gone from")
            + " vLLM {engine.version}",
            reason="it is ignored" if variable else "the engine does not start with it",
            remedy=entry.instead,
            source=(rulebook.READ, rulebook.FLAGS_LINK),
            example={"env" if variable else "args": {entry.name if variable else top: entry.value}},
        )


def _ranges() -> Iterable[Rule]:
    for entry in rulebook.RANGES:
        top = entry.flag.partition(".")[0]
        place = f"args.{entry.flag}"
        yield Rule(
            id=f"range-{entry.flag.replace('.', '-')}",
            severity="error",
            when={place: entry.bad},
            unless={place: entry.but} if entry.but else {},
            at=f"args.{top}",
            message=f"has {{{place}}}" + (f" for `{entry.flag.partition('.')[2]}`" if "." in entry.flag else ""),
            reason=f"it must be {entry.must}, which the engine's parser does not check",
            remedy="Correct it",
            source=(rulebook.READ,),
            example={"args": {top: entry.example}},
        )


def _advisories() -> Iterable[Rule]:
    for entry in rulebook.ADVISORIES:
        before = Version.of(entry.below)
        last = (*before[:-1], before[-1] - 1)
        yield Rule(
            id=entry.id,
            severity="error",
            when={"engine": f"<{entry.below}", **entry.when},
            at="llm_images.{image}.engine.version",
            message=f"vLLM {{engine.version}} has a published weakness: {entry.what}",
            reason=f"version {entry.below} is the first without it",
            remedy=f"Use an image with vLLM {entry.below} or newer, or accept it by its id, with the reason, on image or service",
            source=(entry.source,),
            example={"image": {"engine": {"name": "vllm", "version": ".".join(map(str, last))}}},
        )


# ---------------------------------------------------------------------------------------------------------------------
# What is known of a service.


def facts(declared: Declared, service: Service, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts by which rules are judged; what is not known is left out.

    args.<flag>, env.<NAME>: as declared; mappings (and JSON) go on with a dot, `no-<flag>` is the flag with false.
    engine (version), engine.version (as text), accelerator, image, image.tags (of all images it may be made from; "" for none).
    gpus, missing.gpus (ranks without one; negative: too many), capability (of each GPU), tp, ranks, batched, seqs, shm.gib,
    mounts (paths in the container), dtype (float16, bfloat16, ...).
    model.revision, .pinned, .vision, .thinking, .bits, and with a configuration .mla, .heads, .kv_heads, .intermediate.
    rest.heads, .kv_heads, .intermediate: what a division by tp leaves. family, family.tools, .reasoning; fits.tool_parser,
    fits.reasoning_parser. config: the model's config.json, if known.
    """
    image, model = declared.images[service.image], declared.models[service.model]
    flags = estimate.service_flags(declared, service)
    found: dict[str, Any] = {
        "image": service.image,
        "image.tags": _tags(declared, service.image),
        "gpus": len(service.gpus),
        "tp": flags.tp,
        "ranks": flags.tp * flags.pp * flags.dp,
        "batched": flags.batched,
        "seqs": flags.seqs,
        "shm.gib": round(size_bytes(str(service.limits.get("shm_size", LIMITS["shm_size"].default))) / GIB, 2),
        "mounts": frozenset(v.split(":")[1] if ":" in v else v for v in service.volumes),
        "model.revision": model.revision,
        "model.pinned": bool(COMMIT.fullmatch(model.revision)) or not any("hub" in s for s in model.sources),
    }
    found["missing.gpus"] = found["ranks"] - found["gpus"]
    if version := Version.of(str(image.engine.get("version", ""))):
        found |= {"engine": version, "engine.version": image.engine["version"]}
    if image.accelerator:
        found["accelerator"] = image.accelerator
    cards = [nvidia.capability(g.model) for g in declared.gpus if g.index in service.gpus or g.uuid in service.gpus]
    if cards and all(cards):
        found["capability"] = frozenset(cards)
    for flag, value in service.args.items():
        found |= _spread(f"args.{flag}", value)
        if flag.startswith("no-") and isinstance(value, bool):
            found.setdefault(f"args.{flag[3:]}", not value)
    found |= {f"env.{name}": value for name, value in service.env.items()}
    found |= _model_facts(model, config or {}, flags.tp)
    asked = str(service.flag("dtype", "auto"))
    if asked != "auto":
        found["dtype"] = HALF.get(asked, asked)
    return found | _parser_facts(service, model, found.get("model.architecture", model.architecture))


def _spread(place: str, value: Any) -> dict[str, Any]:
    """Facts of one value: itself under its name, and what a mapping (or JSON, as the engine takes it) holds, below dotted names."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {place: value}
    found = {place: value}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            found |= _spread(f"{place}.{name}", inner)
    return found


def _tags(declared: Declared, image: str) -> frozenset[str]:
    """Tags of all references that an image, or what it is built on, may be pulled from; none for those with a digest."""
    found: set[str] = set()
    for source in declared.images[image].sources:
        if "build" in source:
            found |= _tags(declared, source["build"]["base"])
        elif "pull" in source:
            name, _, digest = str(source["pull"]).partition("@")
            tag = name.rpartition("/")[2].partition(":")[2]
            if not digest or "nightly" in tag:
                found.add(tag)
    return frozenset(found)


def _model_facts(model: Model, config: Mapping[str, Any], tp: int) -> dict[str, Any]:
    found: dict[str, Any] = {"model.bits": BITS[model.quantization]}
    found |= {f"model.{k}": v for k, v in (("vision", model.vision), ("thinking", model.thinking)) if v is not None}
    if not config:
        return found
    try:
        shape = architecture.read(config)
    except architecture.Unreadable:
        return found
    text = config.get("text_config") or config
    dtype = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    found |= {
        "model.architecture": shape.architecture,
        "model.mla": shape.mla is not None,
        "model.heads": shape.heads,
        "model.kv_heads": shape.kv_heads,
        "model.intermediate": shape.intermediate,
        "rest.heads": shape.heads % tp,
        "rest.intermediate": shape.intermediate % tp,
    }
    if shape.mla is None:  # the compressed vector is held by every rank whole
        found["rest.kv_heads"] = min(shape.kv_heads % tp, tp % shape.kv_heads)
    if shape.quantization.method != "none":
        found["model.bits"] = shape.quantization.bits
    if isinstance(dtype, str):
        found["dtype"] = HALF.get(dtype, dtype)
    return found


def _parser_facts(service: Service, model: Model, architecture: str) -> dict[str, Any]:
    """Facts on whether the declared parsers fit the model's family; none for an unlisted family or a parser of one's own."""
    name, family = model.family, rulebook.FAMILIES.get(model.family)
    if family is None and not name:
        name, family = next(
            ((n, f) for n, f in rulebook.FAMILIES.items() if architecture in f.architectures), ("", None)
        )
    if family is None:
        return {}
    found: dict[str, Any] = {"family": name, "family.tools": " or ".join(family.tools)}
    found["family.reasoning"] = " or ".join(family.reasoning) or "none"
    for flag, plugin, known in (
        ("tool-call-parser", "tool_parser", family.tools),
        ("reasoning-parser", "reasoning_parser", family.reasoning),
    ):
        if flag in service.args and plugin not in service.plugins:
            found[f"fits.{plugin}"] = service.args[flag] in known
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Conditions.


def holds(condition: Any, value: Any) -> bool:
    """Whether a value fulfils a condition.

    A tuple: any of them. "set": there is one. Text that begins with <, <=, >, >=, != and a number: compared as number or
    version; several of those with spaces between: all. Text with `*`: a pattern. Else the same value. A set of values
    fulfils what any of them does.
    """
    if isinstance(condition, tuple):
        return any(holds(one, value) for one in condition)
    if condition == "set":
        return True
    if isinstance(value, frozenset):
        return any(holds(condition, one) for one in value)
    if isinstance(condition, str):
        if re.match(r"[<>!]", condition):
            return all(_compares(part, value) for part in condition.split())
        if "*" in condition:
            return isinstance(value, str) and fnmatch.fnmatchcase(value, condition)
    # True is not 1 here.
    return bool(condition == value) and isinstance(condition, bool) == isinstance(value, bool)


def _compares(part: str, value: Any) -> bool:
    found = re.fullmatch(r"(<=|>=|!=|<|>)(\S+)", part)
    if found is None:
        raise ValueError(f"{part!r} is no comparison")
    sign, right = found.groups()
    if isinstance(value, Version):
        wide = max(len(value), right.count(".") + 1)
        left, other = (tuple(v) + (0,) * (wide - len(v)) for v in (value, Version.of(right)))
        order = (left > other) - (left < other)
    else:
        number = _number(value)
        if number is None:
            return False
        order = (number > float(right)) - (number < float(right))
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0, "!=": order != 0}[sign]


def _number(value: Any) -> float | None:
    """A number as the engine takes it ("128k" is one), else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        nothing = -(10**30)
        counted = architecture.count(value, nothing)
        return None if counted == nothing else float(counted)
    return max(-1e300, min(1e300, value))


def _state(rule: Rule, known: Facts) -> bool | None:
    """Whether a rule is broken; None when something that it needs is not known."""
    is_open = False
    for fact, condition in rule.when.items():
        if fact not in known:
            if not fact.startswith(("args.", "env.")):
                is_open = True
            elif condition != "unset":
                return False
        elif condition == "unset" or not holds(condition, known[fact]):
            return False
    if is_open:
        return None
    return not (rule.unless and all(f in known and holds(c, known[f]) for f, c in rule.unless.items()))


# ---------------------------------------------------------------------------------------------------------------------
# Findings.


def _finding(rule: Rule, service: str, known: Facts) -> Finding:
    def fill(text: str) -> str:
        return re.sub(r"\{([^{}]+)\}", lambda m: _shown(known.get(m[1], "?")), text)

    place = fill(rule.at)
    key = place if place.startswith("llm_") else f"llm_services.{service}.{place}"
    message = f"{fill(rule.message)}: {fill(rule.reason)} ({_cited(rule)})"
    return Finding(rule.id, rule.severity, key, message, fill(rule.remedy))


def _shown(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(v or "no tag" for v in value))
    return json.dumps(value) if isinstance(value, (Mapping, list, tuple)) else f"{value}"


def _cited(rule: Rule) -> str:
    seen = f", experiment {', '.join(rule.experiments)}" if rule.experiments else ""
    return f"rule {rule.id}{seen}"


@dataclasses.dataclass(frozen=True)
class Judged:
    """Findings, and ids of rules that could not be decided; both by service."""

    findings: dict[str, list[Finding]]
    undecided: dict[str, frozenset[str]]


def judge(
    declared: Declared,
    configs: Mapping[str, Mapping[str, Any] | None],
    running: Iterable[str],
    fits: Mapping[str, estimate.Fit],
) -> Judged:
    """Findings of the rules on the services of a host. configs: config.json by model. fits: what was estimated, by service.

    running: those that are to run. What would refuse another one is only a warning: it may be put right before it is needed.
    """
    running = set(running)
    findings: dict[str, list[Finding]] = {}
    undecided: dict[str, frozenset[str]] = {}
    for name in declared.host_services:
        service = declared.services[name]
        known = facts(declared, service, configs.get(service.model))
        states = {rule.id: _state(rule, known) for rule in book().values() if not rule.by}
        found = [_finding(book()[rule], name, known) for rule, state in states.items() if state]
        if name not in running:
            found = [dataclasses.replace(f, severity="warn") if f.severity == "error" else f for f in found]
        findings[name] = found
        states |= _fit_states(fits.get(name) if name in running else None)
        undecided[name] = frozenset(rule for rule, state in states.items() if state is None)
    return Judged(findings, undecided)


def _fit_states(estimate: estimate.Fit | None) -> dict[str, bool | None]:
    """State of each rule that the estimate of memory decides; open without an estimate."""
    done = estimate is not None and estimate.tokens is not None
    return {rule.id: False if done else None for rule in book().values() if rule.by}


def cite(finding: Finding) -> Finding:
    """A finding of another module that is a rule of the book, with its id and experiments."""
    rule = book().get(finding.id)
    if rule is None or not rule.by:
        return finding
    return dataclasses.replace(finding, message=f"{finding.message} ({_cited(rule)})")


def accept_findings(declared: Declared) -> list[Finding]:
    """Ids under `accept`, of any service or image, that name nothing there is."""
    found = []
    for kind, entries, known in (
        ("llm_services", declared.services, frozenset(book())),
        ("llm_images", declared.images, advisories()),
    ):
        for name, entry in entries.items():
            for rule in entry.accept:
                if rule in known:
                    continue
                if kind == "llm_images" and rule in book():
                    message, remedy = (
                        "is no advisory, and a rule is accepted where it is broken",
                        "Move it to the service",
                    )
                else:
                    message = "is no rule that can be accepted"
                    near = nearest(rule, known)
                    remedy = (
                        did_you_mean(rule, known) if near else f"{PAGE} lists them; other errors have to be corrected"
                    )
                found.append(Finding("accept-unknown", "error", f"{kind}.{name}.accept.{rule}", message, remedy))
    return found


def silence(
    declared: Declared, findings: Mapping[str, list[Finding]], undecided: Mapping[str, frozenset[str]]
) -> dict[str, list[Finding]]:
    """Findings by service ("" for the host), with accepted ones as information, and what is accepted in vain as a warning.

    Only rules of the book can be accepted, so errors of shape, references and places stay what they are.
    """
    settled = {name: list(found) for name, found in findings.items()}
    used: dict[str, set[str]] = {}
    open_images: dict[str, set[str]] = {}
    for name in declared.host_services:
        service = declared.services[name]
        image = declared.images[service.image]
        reasons = {**{k: v for k, v in image.accept.items() if k in advisories()}, **service.accept}
        own = settled.setdefault(name, [])
        broken = {f.id for f in own}
        settled[name] = [
            dataclasses.replace(f, severity="info", accepted=reasons[f.id]) if f.id in reasons and f.id in book() else f
            for f in own
        ]
        for rule in service.accept:
            if rule in book() and rule not in broken and rule not in undecided.get(name, ()):
                settled[name].append(_stale(f"llm_services.{name}.accept.{rule}"))
        used.setdefault(image.name, set()).update(broken)
        open_images.setdefault(image.name, set()).update(undecided.get(name, ()))
    for name, broken in used.items():
        for rule in declared.images[name].accept:
            if rule in advisories() and rule not in broken | open_images[name]:
                settled.setdefault("", []).append(_stale(f"llm_images.{name}.accept.{rule}"))
    return settled


def _stale(key: str) -> Finding:
    return Finding("accept-stale", "warn", key, "accepts what is not broken here", "Remove it")
