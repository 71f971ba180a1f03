"""What playbooks/status.yml shows of a host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare.facts import NO_MODEL, NO_RELEASES, Facts, Gpus, Reason
from ansible.module_utils.llm.declare.findings import Findings
from ansible.module_utils.llm.declare.objects import Declared, Image, Service
from ansible.module_utils.llm.gpu.nvidia import label, match
from ansible.module_utils.llm.models import quantize
from ansible.module_utils.llm.plan import changes, compose, needs, placement
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.placement import deployed
from ansible.module_utils.llm.plan.types import StatusEntry, StatusParts


def status(
    declared: Declared,
    facts: Facts,
    findings: Findings,
    work: Mapping[str, Sequence[Reason]],
    rendered: Mapping[str, compose.Release] | None = None,
) -> dict[str, StatusEntry]:
    """Declared beside real, a few short texts a service of the host. work: see service_work. rendered: the declared releases.

    `act`: deploy, stop or nothing to do; `a run would`: the same in full, absent where there is nothing to do. `last attempt`: the
    deployment that failed, with time, cause and folder, absent once a later one succeeded.
    """
    wanted = deployed(declared)
    stops = changes.to_stop(declared, facts, declared.host_services, work)
    found = {}
    for name in declared.host_services:
        service = declared.services[name]
        current = facts["releases"].get(name, NO_RELEASES)["current"]
        real = next((c for c in facts["containers"] if c["service"] == name and c["release"] == current), None)
        waits = "standby" if service.status in ("active", "fallback") else service.status
        entry: StatusEntry = {
            "declared": "to run" if name in wanted else service.state if service.state != "present" else waits,
            "real": f"{real['state']} ({real['status']})" if real else "no container",
            "release": current or "none",
            "proven": "yes" if facts["releases"].get(name, NO_RELEASES)["proven"] else "no",
            "port": service.port,
            "model": service.served_model_name,
            "image": _image_status(declared.images[service.image], facts),
            **_made(declared, facts, service),
            "act": "nothing to do",
        }
        if service.gpus and facts["gpu"]:
            entry["gpus"] = _gpu_lines(declared, facts["gpu"], service)
        if name in work:
            entry["act"] = "deploy"
            entry["a run would"] = _deploy_lines(declared, facts, name, work[name])
        elif own_stops := [s for s in stops if s["service"] == name]:
            entry["act"] = "stop"
            entry["a run would"] = [f"stop {s['container']}, which is not to run" for s in own_stops]
        wanted_release = rendered[name].hash if rendered and name in rendered else ""
        if failed := changes.failed_attempt(facts, name, wanted_release):
            entry["last attempt"] = (
                f'{failed["at"]}, release {failed["release"]}, failed at "{failed["step"]}": {failed["cause"].rstrip(". ")}; '
                f"diagnostics in {failed['folder']}"
            )
        if own := [f.text() for f in findings.get(name, [])]:
            entry["findings"] = own
        found[name] = entry
    return found


def _made(declared: Declared, facts: Facts, service: Service) -> StatusParts:
    """What the model of a service was made of here, what that cost, and what it may cost."""
    made = facts["models"].get(service.model, NO_MODEL).get("made")
    origin = quantize_plan.made_of(declared.models[service.model])
    if not made or "quality" not in made or not origin:
        return {}
    return {"quantized": f"{quantize.summary(made)}; {quantize.allowed(declared.recipes[origin[1]].quality)}"}


def _deploy_lines(declared: Declared, facts: Facts, name: str, reasons: Iterable[Reason]) -> list[str]:
    """What a deployment would do, one thing a line."""
    lines = [f"{r['name']}: {r['current'] or 'none'} -> {r['desired'] or 'none'}" for r in reasons]
    for other in placement.displaces(declared, facts, name):
        lines.append(f"stop {other['container']} first, whose place it takes")
    if any(c["service"] == name and c["state"] == "running" for c in facts["containers"]):
        fits, why = placement.side_by_side(declared, facts, name)
        lines.append(f"start the new release {'beside the old one' if fits else 'after the old one stopped'} ({why})")
    return lines


def _gpu_lines(declared: Declared, seen: Gpus, service: Service) -> list[str]:
    """The GPUs of a service as they were found, one line each."""
    if seen["trouble"]:
        return [str(seen["trouble"]["message"])]
    lines = []
    for entry in declared.gpus:
        if not {entry.index, entry.uuid} & set(service.gpus):
            continue
        one = match(entry, seen["gpus"])
        free = f", {one['free'] / GIB:.1f} GiB free, driver {seen['driver']}" if one and one["free"] else ""
        lines.append(f"{label(one)}{free}" if one else f"{entry.index}: not there")
    return lines


def _image_status(image: Image, facts: Facts) -> str:
    """Reference of an image, whether it is there, and what was proven of it."""
    ref = compose.image_ref(image)
    if not needs.image_id(image, facts):
        return f"{ref}, not there"
    if not image.proofs:
        return ref
    if not needs.is_made(image, facts):
        return f"{ref}, not proven"
    return f"{ref}, proven: {', '.join(p['proof'] for p in facts['image_records'][ref]['proofs'])}"
