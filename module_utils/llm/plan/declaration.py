"""What the declaration alone decides: findings, estimates, and the shape of plan.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ansible.module_utils.llm.declare.facts import NO_RELEASES, Facts
from ansible.module_utils.llm.declare.findings import Finding, Findings
from ansible.module_utils.llm.declare.objects import Declared, Service
from ansible.module_utils.llm.declare.variables import SMOKE
from ansible.module_utils.llm.engine import numbers
from ansible.module_utils.llm.engine.judge import known
from ansible.module_utils.llm.fit import estimate
from ansible.module_utils.llm.plan import deploy, needs, placement
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.placement import deployed
from ansible.module_utils.llm.plan.types import Document, Verdict

_ANSWERED: tuple[Literal["question"], Literal["answer"]] = ("question", "answer")
Fits = Mapping[str, estimate.Fit]  # by service


def judge(declared: Declared, command: str = placement.COMMAND) -> Findings:
    """Findings about the services of a host, from the declaration alone. command: a run of it, for remedies."""
    found: Findings = {s: [] for s in declared.host_services}
    for service in (declared.services[s] for s in declared.host_services):
        if service.status in ("archived", "rejected") and service.name not in declared.settings.force:
            remedy = f"Take it out of llm_host_services, or deploy it all the same with -e llm_force={service.name}"
            key, message = f"llm_services.{service.name}.status", f"is {service.status}: {service.reason}"
            found[service.name].append(Finding(f"status-{service.status}", "error", key, message, remedy))
    for name in placement.deployed(declared):
        found[name] += quantize_plan.judge(declared, declared.models[declared.services[name].model])
        found[name] += _gpu_findings(declared, declared.services[name])
        found[name] += deploy.findings(declared.services[name])
    for findings in (placement.findings(declared, command), gateway_plan.findings(declared)):
        for name, more in findings.items():
            found.setdefault(name, []).extend(more)
    return found


def _gpu_findings(declared: Declared, service: Service) -> list[Finding]:
    key = f"llm_services.{service.name}"
    known: list[int | str] = [g.index for g in declared.gpus]
    known += [g.uuid for g in declared.gpus if g.uuid]
    found = []
    for gpu in service.gpus:
        if gpu not in known:
            names = ", ".join(str(g) for g in known) or "none"
            found.append(
                Finding(
                    "gpu-undeclared",
                    "error",
                    f"{key}.gpus",
                    f"wants GPU {gpu}, the host declares {names}",
                    "Correct it, or add the GPU to llm_host_gpus",
                )
            )
    if len({placement.gpu_name(declared, g) for g in service.gpus}) != len(service.gpus):
        found.append(Finding("gpu-twice", "error", f"{key}.gpus", "names a GPU twice", "Name each GPU once"))
    image = declared.images[service.image]
    for flag in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"):
        value = service.flag(flag, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            message = f"must be a whole number of at least 1, got {value!r}"
            found.append(Finding("parallel-size", "error", f"{key}.args.{flag}", message, "Correct it"))
            return found
    if image.accelerator == "cpu" and service.gpus:
        message = f"gives GPUs to image `{image.name}`, which serves on the CPU"
        found.append(Finding("gpu-on-cpu", "error", f"{key}.gpus", message, "Write `gpus: []`, or choose a GPU image"))
    if image.accelerator == "nvidia" and declared.settings.accelerator == "cpu":
        message = f"`{image.name}` needs an NVIDIA GPU, the host declares llm_accelerator: cpu"
        found.append(Finding("accelerator", "error", f"{key}.image", message, "Choose a CPU image or another host"))
    return found


def estimates(declared: Declared, known: Mapping[str, estimate.Known], facts: Facts | None) -> dict[str, estimate.Fit]:
    """What each service of the host takes and leaves of its memory. known: by model. Facts add what was measured there."""
    records = facts["calibration"] if facts else []
    found = {}
    for name in declared.host_services:
        service = declared.services[name]
        image_id = needs.image_id(declared.images[service.image], facts)
        found[name] = estimate.for_service(declared, service, known, image_id, records)
    return found


def fit_findings(declared: Declared, fits: Fits) -> Findings:
    """What the estimates mean for the services that are to run."""
    return {s: estimate.findings(declared.services[s], fits[s]) for s in deployed(declared) if s in fits}


def answer_findings(declared: Declared, facts: Facts | None) -> Findings:
    """How sure the known answers of the services that are to run are: by declaration, else by what the host's engine showed."""
    found: Findings = {}
    for name in deployed(declared):
        service = declared.services[name]
        model = declared.models[service.model]
        asked = known(model.smoke, service.smoke, service.args, context=0, vision=False)
        shown = facts["releases"].get(name, NO_RELEASES)["known"] if facts else None
        same = shown and all(shown[key] == asked.get(key, SMOKE[key].default) for key in _ANSWERED)
        margin = asked.get("margin", shown["margin"] if shown and same else None)
        key = f"llm_services.{name}.smoke" if "question" in service.smoke else f"llm_models.{model.name}.smoke"
        if margin is None:
            message = "has no `margin`: the first deployment measures it"
            found[name] = [Finding("margin-unknown", "info", key, message, "Measure it with scripts/margin.py")]
        elif margin < numbers.LEAST_MARGIN:
            message = (
                f"the known answer leads by {margin:.2f} nats only, less than {numbers.LEAST_MARGIN}: another processor or batch "
                "may answer otherwise"
            )
            remedy = "Choose a question with a margin (scripts/margin.py)"
            found[name] = [Finding("margin", "warn", key, message, remedy)]
    return found


def document(declared: Declared, findings: Findings, fits: Fits | None = None) -> Document:
    """The content of plan.json."""
    services: dict[str, Verdict] = {}
    for service in declared.host_services:
        own = findings.get(service, [])
        worst = {f.severity for f in own}
        services[service] = {
            "verdict": "refuse" if "error" in worst else "warn" if "warn" in worst else "ok",
            "findings": [f.as_dict() for f in own],
            "gpus": list(declared.services[service].gpus),
            "kv_tokens": {"low": None, "high": None},
        }
        if fits and service in fits:
            services[service]["fit"] = fits[service].as_dict()
            if tokens := fits[service].tokens:
                services[service]["kv_tokens"] = {"low": int(tokens.low), "high": int(tokens.high)}
    return {"services": services, "findings": [f.as_dict() for f in findings.get("", [])]}
