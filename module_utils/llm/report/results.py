"""What clients got, for people and for machines: verdict.json, its history, JUnit XML, and the data of a page (see page.py)."""

from __future__ import annotations

import json
import re
import textwrap
import xml.etree.ElementTree as ET  # writes XML here and reads none
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.llm.base.redact import redact, shorten
from ansible.module_utils.llm.engine import verdict

KEPT = 30
"""Runs that are kept, the newest ones."""
NO_VERDICT = "asked"
"""Id of the check that stands for a service of which nothing came back."""
NOT_DEPLOYED = "deployed"
"""Id of the check that says at which step a release failed, where it was not what it was asked."""

Run = dict[str, Any]
"""{"at": seconds since the epoch, "services": {name: {"ok", "checks": {id: [ok, seconds]}, "ttft_ms"}}}."""
Last = dict[str, dict[str, Any]]
"""What is known of each service: {name: {"at", "ok", "checks" (see verdict.Check), "ttft_ms", and what `about` gave}}."""


# ------------------------------------------------------------------------------------------------------------- results


def collect(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> tuple[verdict.Verdict, dict[str, Any]]:
    """Sum up what llm_smoke returned for each name, in that order: the verdict, and what the page says beside it.

    That is {name: {"ttft_ms", "endpoint", "left_out" (check to reason)}}, with "release" where the result names one.

    results: at most one for each name, fewer when the asking was cut short. A service of which no check came back is not ok,
    and its one check says why. One whose result has `step` and `cause` could not be deployed: the last check says that, after
    those that were made.
    """
    services: dict[str, verdict.ServiceVerdict] = {}
    noted: dict[str, dict[str, Any]] = {}
    padded: list[Mapping[str, Any]] = [*results, *({} for _ in names)]
    for name, result in zip(names, padded):  # noqa: B905 - the filling is as long as it may be
        held = ((result.get("verdict") or {}).get("services") or {}).get(name)
        noted[name] = {key: result.get(key) for key in ("ttft_ms", "endpoint", "left_out")}
        if result.get("release"):
            noted[name]["release"] = result["release"]
        if result.get("step"):
            why = f'failed at "{result["step"]}": {result.get("cause") or "no message"}'
            made = held["checks"] if held else []
            services[name] = verdict.service_verdict([*made, _failed(NOT_DEPLOYED, why)])
        elif held:
            services[name] = held
        else:
            why = str(result.get("msg") or "the run ended before it was its turn")
            services[name] = verdict.service_verdict([_failed(NO_VERDICT, why)])
    return verdict.verdict(services), noted


def _failed(name: str, why: str) -> verdict.CheckResult:
    evidence = shorten(redact(" ".join(why.split())), 600)
    return verdict.CheckResult(id=name, ok=False, seconds=0.0, evidence=evidence, remedy="")


def document(verdict: verdict.Verdict, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Content of verdict.json: the verdict, and of what machine it is. machine: {"processor": see read.processor_of} or {}."""
    return {**verdict, "host": dict(machine)}


def processor(machine: Mapping[str, Any]) -> str:
    """The processor for a person: `AMD EPYC, 2 cores, avx2 fma`; "" where it is not known."""
    found = machine.get("processor") or {}
    if not found:
        return ""
    parts = [str(found.get("model") or "of unknown model"), counted(int(found.get("cores") or 0), "core")]
    known = " ".join(map(str, found.get("features") or ()))
    return ", ".join([*parts, known or "none of the features that are looked for"])


def proofs(verdict: verdict.Verdict, width: int = 100) -> list[str]:
    """Every check with its time, for a terminal: a paragraph for each service, in lines of at most `width`."""
    lines = []
    for name, result in verdict["services"].items():
        checks = result["checks"]
        passed = sum(check["ok"] for check in checks)
        told = [
            f"{check['id'].replace('_', ' ')} {duration(check['seconds']) if check['ok'] else 'FAILED'}"
            for check in checks
        ]
        lines.append(f"{name}: {passed} of {counted(len(checks), 'check')} passed in {duration(_asking(checks))}")
        lines += textwrap.wrap(", ".join(text.replace(" ", "\xa0") for text in told), width)
    return [line.replace("\xa0", " ") for line in lines]


def counted(number: int, noun: str) -> str:
    """A number of things: `1 check`, `2 checks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time with its unit: `250 ms`, `2.5 s`, `12 s`, `7 min 15 s`."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _asking(checks: Sequence[verdict.CheckResult]) -> float:
    return sum(check["seconds"] for check in checks)


def parse_history(text: str) -> tuple[list[Run], Last]:
    """Read what was kept of earlier runs; what makes no sense is left out, a damaged file is an empty history."""
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    if not isinstance(held, dict):
        return [], {}
    runs = [run for run in _list(held.get("runs")) if _is_run(run)]
    last = held.get("last")
    known = {str(k): v for k, v in last.items() if _is_last(v)} if isinstance(last, dict) else {}
    return sorted(runs, key=lambda run: float(run["at"])), known


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_run(run: Any) -> bool:
    return (
        isinstance(run, dict)
        and _number(run.get("at"))
        and isinstance(run.get("services"), dict)
        and all(
            isinstance(s, dict)
            and isinstance(s.get("checks"), dict)
            and all(isinstance(c, list) and len(c) == 2 and _number(c[1]) for c in s["checks"].values())
            for s in run["services"].values()
        )
    )


def _is_last(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _number(entry.get("at"))
        and isinstance(entry.get("checks"), list)
        and all(isinstance(c, dict) and {"id", "ok", "seconds", "evidence"} <= c.keys() for c in entry["checks"])
    )


def add_run(
    history: tuple[list[Run], Last],
    verdict: verdict.Verdict,
    noted: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Mapping[str, Any]],
    at: float,
) -> tuple[list[Run], Last]:
    """History with one run more.

    noted: see collect. about: what is declared of each service that the host runs: {name: {"model", "description", "release"}}.
    Services that are not in it are forgotten, unless this very run asked them.
    """
    runs, last = history
    services = {
        name: {
            "ok": result["ok"],
            "checks": {check["id"]: [check["ok"], check["seconds"]] for check in result["checks"]},
            "ttft_ms": noted[name]["ttft_ms"],
        }
        for name, result in verdict["services"].items()
    }
    now = {
        name: {"at": at, **result, **about.get(name, {}), **noted[name]} for name, result in verdict["services"].items()
    }
    known = {name: entry for name, entry in last.items() if name in about}
    return [*runs, {"at": at, "services": services}][-KEPT:], {**known, **now}


def history_text(runs: Sequence[Run], last: Last) -> str:
    """What `parse_history` reads."""
    return json.dumps({"last": last, "runs": list(runs)}, sort_keys=True, ensure_ascii=False) + "\n"


# --------------------------------------------------------------------------------------------------------------- JUnit

# XML 1.0 has no way to write these; a model may say them all the same.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdict: verdict.Verdict, host: str, at: float, machine: Mapping[str, Any] | None = None) -> str:
    """JUnit XML: a test suite for each service, a test case for each check, the evidence as failure or output.

    machine: see `document`; each suite has it as properties, `processor.model` and so on.
    """
    facts = (machine or {}).get("processor") or {}
    root = ET.Element("testsuites", name=_xml(host))
    for name, result in verdict["services"].items():
        checks = result["checks"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml(name),
            hostname=_xml(host),
            timestamp=_time(at).strftime("%Y-%m-%dT%H:%M:%S"),
            tests=str(len(checks)),
            failures=str(sum(not check["ok"] for check in checks)),
            errors="0",
            skipped="0",
            time=f"{sum(check['seconds'] for check in checks):.3f}",
        )
        if facts:
            properties = ET.SubElement(suite, "properties")
            for key, value in facts.items():
                text = " ".join(value) if isinstance(value, list) else str(value)
                ET.SubElement(properties, "property", name=f"processor.{key}", value=_xml(text))
        for check in checks:
            case = ET.SubElement(
                suite, "testcase", classname=_xml(name), name=_xml(check["id"]), time=f"{check['seconds']:.3f}"
            )
            evidence, remedy = _said(check)
            if check["ok"]:
                ET.SubElement(case, "system-out").text = _xml(evidence)
            else:
                text = f"{evidence} {remedy}".strip()
                ET.SubElement(case, "failure", message=_xml(shorten(evidence, 200))).text = _xml(text)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, tz=timezone.utc)


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)


def _said(check: Mapping[str, Any]) -> tuple[str, str]:
    """Evidence and remedy of a check."""
    return str(check["evidence"]), str(check.get("remedy") or "")


# ---------------------------------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Spot:
    """The value of one run in a sparkline: where it is, from the left and from the top, and whether the run passed."""

    x: float
    y: float
    ok: bool


@dataclass(frozen=True)
class Sparkline:
    """Values of two or more runs as a picture, the oldest left. low, high: the least and the greatest value, in `unit`."""

    spots: list[Spot]
    low: float
    high: float
    unit: str
    failed: int
    width: int
    height: int


@dataclass(frozen=True)
class PastRun:
    """A kept run: how many checks it made, and how many of these failed. It is ok when it made some and none failed."""

    at: datetime
    checks: int
    failed: int
    ok: bool


@dataclass(frozen=True)
class CheckRow:
    """A check of a service, its id as words. share: its time as part of the longest check's, above 0 and at most 1.

    times: those of the runs that are kept, None when fewer than two made this check.
    """

    name: str
    ok: bool
    evidence: str
    remedy: str
    seconds: float
    share: float
    times: Sparkline | None


@dataclass(frozen=True)
class ServicePart:
    """What a service got when it was asked last, at `at`; `newest` says that this was in the run that the page is about.

    facts: description and endpoint, as far as they are known. release: "" where it is not known. ttft_ms: time to first token,
    None without a stream; first_tokens has those of the runs that are kept. left_out: check, as words, to the reason.
    """

    name: str
    ok: bool
    at: datetime
    newest: bool
    model: str
    facts: list[str]
    release: str
    ttft_ms: float | None
    first_tokens: Sparkline | None
    passed: int
    checks: list[CheckRow]
    left_out: dict[str, str]


@dataclass(frozen=True)
class PageData:
    """All that the page about a host shows. Services that failed come first.

    checks, failed: over all services. seconds: what the checks of the run at `at` took. processor: "" where it is not known.
    past: all runs that are kept, the newest last, and that is the one at `at`.
    """

    host: str
    at: datetime
    checks: int
    failed: int
    seconds: float
    processor: str
    past: list[PastRun]
    services: list[ServicePart]


def page_data(host: str, runs: Sequence[Run], last: Last, machine: Mapping[str, Any] | None = None) -> PageData:
    """Data of the page about a host: every service with what it got when it was asked last, and earlier runs.

    runs: not empty; the newest is what the page is about. last: see Last. machine: see `document`.
    """
    at = runs[-1]["at"]
    entries = sorted(last.items(), key=lambda item: (item[1]["ok"], item[0]))
    services = [_service(name, entry, runs, at) for name, entry in entries]
    checks = [check for service in services for check in service.checks]
    return PageData(
        host=host,
        at=_time(at),
        checks=len(checks),
        failed=sum(not check.ok for check in checks),
        seconds=sum(check.seconds for service in services if service.newest for check in service.checks),
        processor=processor(machine or {}),
        past=[_past(run) for run in runs],
        services=services,
    )


def _past(run: Run) -> PastRun:
    checks = [check for service in run["services"].values() for check in service["checks"].values()]
    failed = sum(not ok for ok, _ in checks)
    return PastRun(at=_time(run["at"]), checks=len(checks), failed=failed, ok=bool(checks) and not failed)


def _service(name: str, entry: Mapping[str, Any], runs: Sequence[Run], at: float) -> ServicePart:
    checks = entry["checks"]
    longest = max((check["seconds"] for check in checks), default=0) or 1
    asked = [run["services"][name] for run in runs if name in run["services"]]
    reasons = entry.get("left_out")
    return ServicePart(
        name=name,
        ok=bool(entry["ok"]),
        at=_time(entry["at"]),
        newest=entry["at"] == at,
        model=str(entry.get("model", "")),
        facts=[str(entry[key]) for key in ("description", "endpoint") if entry.get(key)],
        release=str(entry.get("release") or ""),
        ttft_ms=entry["ttft_ms"] if _number(entry.get("ttft_ms")) else None,
        first_tokens=sparkline(
            [(bool(held["ok"]), float(held["ttft_ms"])) for held in asked if _number(held.get("ttft_ms"))], "ms"
        ),
        passed=sum(bool(check["ok"]) for check in checks),
        checks=[_row(check, longest, asked) for check in checks],
        left_out={_words(check): str(why) for check, why in reasons.items()} if isinstance(reasons, Mapping) else {},
    )


def _row(check: Mapping[str, Any], longest: float, asked: Sequence[Mapping[str, Any]]) -> CheckRow:
    evidence, remedy = _said(check)
    made = [service["checks"][check["id"]] for service in asked if check["id"] in service["checks"]]
    return CheckRow(
        name=_words(check["id"]),
        ok=bool(check["ok"]),
        evidence=evidence,
        remedy=remedy,
        seconds=check["seconds"],
        share=max(check["seconds"] / longest, 0.01),
        times=sparkline([(bool(ok), float(seconds)) for ok, seconds in made], "s"),
    )


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def sparkline(points: Sequence[tuple[bool, float]], unit: str) -> Sparkline | None:
    """Picture of values with whether their runs passed, the oldest first; None of fewer than two."""
    if len(points) < 2:
        return None
    width, height, edge = 112, 22, 3
    values = [value for _, value in points]
    low, high = min(values), max(values)
    step = (width - 2 * edge) / (len(points) - 1)

    def down(value: float) -> float:
        return height / 2 if high == low else height - edge - (value - low) / (high - low) * (height - 2 * edge)

    return Sparkline(
        spots=[Spot(round(edge + i * step, 1), round(down(value), 1), ok) for i, (ok, value) in enumerate(points)],
        low=low,
        high=high,
        unit=unit,
        failed=sum(not ok for ok, _ in points),
        width=width,
        height=height,
    )
