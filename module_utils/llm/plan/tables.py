"""What the plan tells a person, as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from ansible.module_utils.llm.base.tables import WIDTH, Row, bar, numbers, render, wrapped
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import Facts, FoundGpu
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.values import size_bytes
from ansible.module_utils.llm.fit import estimate
from ansible.module_utils.llm.fit.estimate import tokens_text
from ansible.module_utils.llm.gpu.nvidia import match
from ansible.module_utils.llm.plan import placement
from ansible.module_utils.llm.plan.types import StatusEntry

LEGEND = (
    "Memory of one GPU (or the container's, without GPU): # weights, + activations, graphs and the engine itself, "
    "= KV cache, ? not known, . not reserved. Weights and KV in GiB a GPU."
)


# ---------------------------------------------------------------------------------------------------------------------
# validate.


def plan_table(
    declared: Declared,
    findings: Mapping[str, Sequence[Finding]],
    fits: Mapping[str, estimate.Fit] | None = None,
    errors: bool = True,
) -> list[str]:
    """Services with their memory and verdict, and GPUs with what is reserved of them.

    errors: whether findings that refuse are listed here too; a refusal lists them below the table, with their files.
    """
    told = {s: [f for f in found if errors or f.severity != "error"] for s, found in findings.items()}
    placed = placement.place(declared)
    rows = []
    for name in declared.host_services:
        service = declared.services[name]
        own = findings.get(name, [])
        estimate = (fits or {}).get(name)
        cells = [name, numbers(placement.gpu_name(declared, g) for g in service.gpus), str(service.port)]
        cells += [*_memory(declared, name, estimate), _verdict(declared, placed, name, own)]
        rows.append(Row(cells, [_said(f) for f in told.get(name, [])]))
    if not rows:
        return ["No service: llm_host_services lists none.", *_host_lines(told)]
    head = ("service", "GPUs", "port", "memory", "weights", "KV", "KV tokens", "verdict")
    lines = [*render(head, rows, right=("weights", "KV", "KV tokens")), "", *textwrap.wrap(LEGEND, WIDTH)]
    return [*lines, *gpu_table(declared, placed), *_host_lines(told)]


def _host_lines(findings: Mapping[str, Sequence[Finding]]) -> list[str]:
    told = findings.get("", [])
    return ["", "The host", *(line for f in told for line in wrapped(f"{f.severity}: {f.text()}"))] if told else []


def _said(finding: Finding) -> str:
    """Text of a finding below its service. Remedies are left out but for how to switch: warnings need no action."""
    remedy = "" if finding.severity == "info" and finding.id != "standby" else f". {finding.remedy}"
    return f"{finding.severity}: {finding.explained()}{remedy}"


def _verdict(declared: Declared, placed: placement.Placement, name: str, findings: Sequence[Finding]) -> str:
    worst = {f.severity for f in findings}
    if "error" in worst:
        return "refuse"
    if "warn" in worst:
        return "warn"
    if name in placed.displaced or name in placed.standing_by:
        return "standby"
    state = declared.services[name].state
    return state if state != "present" else "ok"


def _memory(declared: Declared, name: str, estimate: estimate.Fit | None) -> list[str]:
    """Cells: bar with the reserved share, GiB of weights, GiB of KV cache, KV tokens."""
    service = declared.services[name]
    if estimate is None or estimate.basis == "unknown":
        share = placement.share(service)
        return [f"{bar([('?', share)], 1.0)} {share:.2f}" if service.gpus else "", "", "", "unknown"]
    held, kv = estimate.weights.likely, max(0.0, estimate.kv.likely)
    part = f"{placement.share(service):.2f}"
    if estimate.cpu:
        rest = max(0.0, estimate.ram.likely - held - kv)
        limit = size_bytes(service.limits["memory"]) / GIB if "memory" in service.limits else 0.0
        total, part = limit or estimate.ram.likely, f"of {limit:g}g" if limit else "no limit"
    else:
        rest = estimate.activation.likely + estimate.graphs.likely + estimate.other.likely
        total = estimate.total.likely
    parts = [("#", held), ("+", rest), ("=", kv)]
    tokens = tokens_text(estimate).removesuffix(" tokens")
    return [f"{bar(parts, total)} {part}", f"{held:.1f}", f"{kv:.1f}", tokens]


def gpu_table(declared: Declared, placed: placement.Placement, seen: Sequence[FoundGpu] | None = None) -> list[str]:
    """GPUs with what the services that run reserve of each. seen: GPUs as found on the host, with their free memory now."""
    if not declared.gpus:
        return []
    claims = [placement.claim(declared, declared.services[s]) for s in placed.running]
    rows = []
    for gpu in declared.gpus:
        sharers = [c for c in claims if gpu.index in c.shares]
        total = sum(c.shares[gpu.index] for c in sharers)
        size = gpu.memory / GIB
        cells = [f"GPU {gpu.index}", gpu.model[:32], f"{size:.0f} GiB", f"{bar([('#', total)], 1.0)} {total:.2f}"]
        if seen is not None:
            one = match(gpu, seen)
            free = one["free"] / GIB if one and one["free"] is not None else None
            cells.append("not there" if one is None else f"{free:.1f} GiB" if free is not None else "unknown")
        who = ", ".join(f"{c.service} {c.shares[gpu.index]:g}" for c in sharers) or "nobody"
        short = len(sharers) < 2 and len(who) <= 30
        rows.append(Row([*cells, who if short else f"{len(sharers)} services"], () if short else [who]))
    head = ["GPU", "model", "memory", "reserved", *(["free now"] if seen is not None else []), "by"]
    return ["", *render(head, rows)]


# ---------------------------------------------------------------------------------------------------------------------
# status.


def status_table(
    declared: Declared,
    facts: Facts,
    status: Mapping[str, StatusEntry],
    findings: Mapping[str, Sequence[Finding]],
) -> list[str]:
    """Declared beside real. status: see status.status."""
    placed = placement.place(declared)
    rows = []
    for name, entry in status.items():
        cells = [name, entry["declared"], entry["real"], entry["release"], entry["proven"], str(entry["port"])]
        cells.append(entry["act"])
        todo = [f"{entry['act']}: {text}" for text in entry.get("a run would", [])]
        made = [f"model {entry['quantized']}"] if "quantized" in entry else []
        failed = [f"last attempt  {entry['last attempt']}"] if "last attempt" in entry else []
        below = [f"image {entry['image']}", *made, *failed, *todo, *(_said(f) for f in findings.get(name, []))]
        rows.append(Row(cells, below))
    if not rows:
        lines = ["No service: llm_host_services lists none."]
    else:
        head = ("service", "declared", "real", "release", "proven", "port", "a run would")
        lines = render(head, rows)
    seen = facts["gpu"]
    if seen and seen["trouble"]:
        lines += ["", *wrapped(f"GPUs: {seen['trouble']['message']}. {seen['trouble']['remedy']}")]
    elif seen:
        lines += gpu_table(declared, placed, seen["gpus"])
    memory = facts["memory"]
    free, total = (f"{size / GIB:.1f}" if size else "?" for size in (memory["available"], memory["total"]))
    lines += ["", f"Memory of the host: {free} of {total} GiB free"]
    return [*lines, *_host_lines(findings)]
