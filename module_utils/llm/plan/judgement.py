"""All that is found of a host: by its declaration, by the files of its plugins and models, and by the host's own facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ansible.module_utils.llm.declare.facts import Content, Facts
from ansible.module_utils.llm.declare.findings import Finding, Findings
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.fit import estimate, rules
from ansible.module_utils.llm.plan import changes, compose, declaration, on_host, placement
from ansible.module_utils.llm.plan.selection import Selection
from ansible.module_utils.llm.plan.types import Document, Verdict


@dataclasses.dataclass(frozen=True)
class Given:
    """What a run knows beside the declaration.

    facts: of the host, None where it was not read. plugins: contents of plugin files, by service and file. known: what is known of
    models, by name. keys: those of services that are given and not made. verb: the run brings nothing up. takes: it changes the
    host. check: it only predicts.
    """

    selection: Selection
    facts: Facts | None = None
    plugins: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    known: Mapping[str, estimate.Known] = dataclasses.field(default_factory=dict)
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    verb: bool = False
    takes: bool = False
    check: bool = False


@dataclasses.dataclass(frozen=True)
class Judged:
    """A declaration with its releases (`rendered`), its estimates of memory (`fits`), and all findings.

    running: services that are to run on the host, of those that the tags select. configs: config.json of the models of which it is
    known, by model. noticed: those findings that warn of the host, which a table of the declaration does not show.
    """

    declared: Declared
    given: Given
    running: Sequence[str]
    configs: Mapping[str, Content]
    rendered: Mapping[str, compose.Release]
    fits: declaration.Fits
    findings: Findings
    noticed: Sequence[Finding] = ()


def judge(declared: Declared, given: Given, read: Findings, command: str) -> Judged:
    """Judge a declaration that is well-formed.

    read: what was found while it was read, by service. command: a run of the declaration, for remedies.
    """
    facts, noticed = given.facts, list[Finding]()
    running = [s for s in placement.deployed(declared) if s in given.selection.services]
    configs = {name: model.config for name, model in given.known.items() if model.config}
    found = declaration.judge(declared, command)
    found[""] = [*read.get("", []), *found.get("", [])]

    def add(more: Mapping[str, Iterable[Finding]]) -> None:
        for service, own in more.items():
            found.setdefault(service, []).extend(own)

    add({service: own for service, own in read.items() if service})
    if facts and facts["docker"]["running"] is not None:
        seen = on_host.look_at_host(declared, facts, running, given.selection.stages, given.verb)
        add(seen)
        noticed = [f for own in seen.values() for f in own if f.severity == "warn"]
        # A verb takes nothing; it shows, at most, what site.yml would.
        if given.takes or given.verb:
            add({"": on_host.loss_findings(declared, facts, given.selection.stages)})
    rendered = changes.releases(declared, facts, given.plugins)
    if facts:
        add(on_host.foreign_findings(declared, facts, running, rendered))
    fits = declaration.estimates(declared, given.known, facts)
    add({service: map(rules.cite, own) for service, own in declaration.fit_findings(declared, fits).items()})
    add(declaration.answer_findings(declared, facts))
    broken = rules.judge(declared, configs, placement.deployed(declared), fits)
    add(broken.findings)
    found = rules.silence(declared, found, broken.undecided)
    found[""] += rules.accept_findings(declared)
    return Judged(declared, given, running, configs, rendered, fits, found, noticed)


def errors(findings: Findings) -> list[Finding]:
    """Of findings by service, those that refuse a run."""
    return [f for own in findings.values() for f in own if f.severity == "error"]


def by_service(findings: Iterable[Finding], services: object) -> Findings:
    """Findings under the service that their key names, the others under "". services: what llm_services is, mapping or not."""
    names = [str(s) for s in services] if isinstance(services, Mapping) else []
    found: Findings = {"": []}
    for finding in findings:
        parts = finding.key.split(".")
        owner = parts[1] if parts[0] == "llm_services" and len(parts) > 1 and parts[1] in names else ""
        found.setdefault(owner, []).append(finding)
    return found


def malformed(findings: Findings, listed: object) -> Document:
    """plan.json of a declaration that is not well-formed. listed: what llm_host_services is, list or not."""
    names = listed if isinstance(listed, (list, tuple)) else []
    services: dict[str, Verdict] = {
        service: {
            "verdict": "refuse" if findings.get(service) else "ok",
            "findings": [f.as_dict() for f in findings.get(service, [])],
            "gpus": [],
            "kv_tokens": {"low": None, "high": None},
        }
        for service in dict.fromkeys([*map(str, names), *(s for s in findings if s)])
    }
    return {"services": services, "findings": [f.as_dict() for f in findings.get("", [])]}
