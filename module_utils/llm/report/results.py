"""What clients got, for people and for machines: verdict.json, JUnit XML and one HTML page. Pure: texts from data.

The page is one file that needs nothing else: style and pictures are in it, it has no script, and its policy forbids it to
load anything.
"""

from __future__ import annotations

import json
import re
import textwrap
import xml.etree.ElementTree as ET  # writes XML here and reads none
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
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
    parts = [str(found.get("model") or "of unknown model"), _count(int(found.get("cores") or 0), "core")]
    known = " ".join(map(str, found.get("features") or ()))
    return ", ".join([*parts, known or "none of the features that are looked for"])


def proofs(verdict: verdict.Verdict, width: int = 100) -> list[str]:
    """Every check with its time, for a terminal: a paragraph for each service, in lines of at most `width`."""
    lines = []
    for name, result in verdict["services"].items():
        checks = result["checks"]
        passed = sum(check["ok"] for check in checks)
        told = [
            f"{check['id'].replace('_', ' ')} {_duration(check['seconds']) if check['ok'] else 'FAILED'}"
            for check in checks
        ]
        lines.append(f"{name}: {passed} of {_count(len(checks), 'check')} passed in {_duration(_asking(checks))}")
        lines += textwrap.wrap(", ".join(text.replace(" ", "\xa0") for text in told), width)
    return [line.replace("\xa0", " ") for line in lines]


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


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)


def _said(check: Mapping[str, Any]) -> tuple[str, str]:
    """Evidence and remedy of a check."""
    return str(check["evidence"]), str(check.get("remedy") or "")


# ---------------------------------------------------------------------------------------------------------------- page


def page(host: str, runs: Sequence[Run], last: Last, machine: Mapping[str, Any] | None = None) -> str:
    """The page about a host: every service with what it got when it was asked last, and earlier runs as sparklines.

    runs: not empty; the newest is what the page is about. last: see Last. machine: see `document`.
    """
    at = runs[-1]["at"]
    services = sorted(last.items(), key=lambda item: (item[1]["ok"], item[0]))
    checks = [check for _, entry in services for check in entry["checks"]]
    wrong = [check for check in checks if not check["ok"]]
    title = f"{host}: {_count(len(wrong), 'check')} failed" if wrong else f"{host}: all checks passed"
    state = "bad" if wrong else "good"
    summary = (
        f"{len(wrong)} of {_count(len(checks), 'check')} failed"
        if wrong
        else f"All {_count(len(checks), 'check')} passed"
    )
    seconds = sum(check["seconds"] for _, entry in services if entry["at"] == at for check in entry["checks"])
    body = [
        '<header><p class="kicker">What clients got</p>',
        f"<h1>{escape(host)}</h1>",
        f'<p class="verdict {state}">{_mark(not wrong)}<strong>{summary}</strong></p>',
        f'<p class="when">{_when(at)}, {_count(len(services), "service")}, {_duration(seconds)} of asking</p>',
        *([f'<p class="when">Processor: {escape(told)}</p>'] if (told := processor(machine or {})) else []),
        "</header>",
        _past(runs),
        '<nav class="cards">' + "".join(_card(name, entry, runs) for name, entry in services) + "</nav>",
        "<main>" + "".join(_section(name, entry, runs, at) for name, entry in services) + "</main>",
        "<footer>Times are wall time of one request, or of a few where a check sends more. A thin line shows the runs before, "
        "the oldest left; a dot is a run that failed. Beside this page lie "
        '<a href="verdict.json">verdict.json</a>, <a href="junit.xml">junit.xml</a> and the plan.</footer>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="{_ICON[state]}"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(text: str) -> str:
    """Text for people, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, tz=timezone.utc)


def _when(at: float) -> str:
    time = _time(at)
    return f'<time datetime="{time:%Y-%m-%dT%H:%M:%SZ}">{time.day} {time:%B %Y, %H:%M} UTC</time>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _mark(ok: bool) -> str:
    path = "M4 8.5l2.8 2.8L12 5.4" if ok else "M5 5l6 6M11 5l-6 6"
    return (
        f'<svg class="mark {"good" if ok else "bad"}" viewBox="0 0 16 16" role="img" aria-label="{"passed" if ok else "failed"}">'
        f'<circle cx="8" cy="8" r="8"/><path d="{path}"/></svg>'
    )


def sparkline(points: Sequence[tuple[bool, float]], unit: str = "s") -> str:
    """An SVG of earlier values, the oldest first: a line, a dot where a run failed, and one at the newest. "" below two."""
    if len(points) < 2:
        return ""
    width, height, edge = 112.0, 22.0, 3.0
    values = [value for _, value in points]
    low, high = min(values), max(values)
    step = (width - 2 * edge) / (len(points) - 1)
    spots = [
        (
            edge + index * step,
            height / 2 if high == low else height - edge - (value - low) / (high - low) * (height - 2 * edge),
        )
        for index, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = "".join(
        f'<circle class="{"" if ok else "bad"}" cx="{x:.1f}" cy="{y:.1f}" r="{2.4 if last else 1.9}"/>'
        for (ok, _), (x, y), last in (
            (p, s, i == len(points)) for i, (p, s) in enumerate(zip(points, spots, strict=True), 1)
        )
        if last or not ok
    )
    label = f"{len(points)} runs, {low:.3g} to {high:.3g} {unit}, {sum(not ok for ok, _ in points)} failed"
    return (
        f'<svg class="spark" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<polyline points="{line}"/>{dots}</svg>'
    )


def _past(runs: Sequence[Run]) -> str:
    """All kept runs as a row of bars, the newest right."""
    if len(runs) < 2:
        return ""
    bars = []
    for run in runs:
        checks = [check for service in run["services"].values() for check in service["checks"].values()]
        wrong = sum(not ok for ok, _ in checks)
        told = f"{wrong} of {len(checks)} failed" if wrong else f"all {len(checks)} passed"
        state = "bad" if wrong or not checks else "good"
        bars.append(f'<li class="{state}"><span>{_when(run["at"])}: {told}</span></li>')
    good = sum('class="good"' in bar for bar in bars)
    return (
        f'<section class="past" aria-label="Earlier runs"><ol>{"".join(bars)}</ol>'
        f"<p>{good} of the last {len(runs)} runs all right</p></section>"
    )


def _card(name: str, entry: Mapping[str, Any], runs: Sequence[Run]) -> str:
    passed = sum(bool(check["ok"]) for check in entry["checks"])
    first = entry.get("ttft_ms")
    points = [
        (bool(held["ok"]), float(held["ttft_ms"]))
        for run in runs
        if (held := run["services"].get(name)) and _number(held.get("ttft_ms"))
    ]
    speed = (
        f"<b>{first:.0f}<small> ms</small></b><i>first token</i>"
        if _number(first)
        else "<b>&ndash;</b><i>no stream</i>"
    )
    ok = bool(entry["ok"])
    return (
        f'<a class="card {"good" if ok else "bad"}" href="#{escape(name)}"><h2>{_mark(ok)}{escape(name)}</h2>'
        f'<p class="model">{escape(str(entry.get("model", "")))}</p>'
        f'<p class="figures"><span><b>{passed}<small>/{len(entry["checks"])}</small></b><i>checks</i></span>'
        f"<span>{speed}</span>{sparkline(points, 'ms')}</p></a>"
    )


def _section(name: str, entry: Mapping[str, Any], runs: Sequence[Run], at: float) -> str:
    told = [str(entry[key]) for key in ("description", "endpoint") if entry.get(key)]
    facts = " · ".join(
        [
            *map(escape, told),
            *([f"release <code>{escape(str(entry['release']))}</code>"] if entry.get("release") else []),
        ]
    )
    older = (
        f'<p class="older">Not asked in this run; this is what it got on {_when(entry["at"])}.</p>'
        if entry["at"] != at
        else ""
    )
    longest = max((check["seconds"] for check in entry["checks"]), default=0) or 1
    rows = []
    for check in entry["checks"]:
        evidence, remedy = _said(check)
        points = [
            (bool(held[0]), float(held[1]))
            for run in runs
            if (held := run["services"].get(name, {}).get("checks", {}).get(check["id"]))
        ]
        fix = f'<p class="remedy">{_text(remedy)}</p>' if remedy else ""
        rows.append(
            f'<tr class="{"good" if check["ok"] else "bad"}"><th scope="row"><span>{_mark(bool(check["ok"]))}'
            f'{escape(str(check["id"]).replace("_", " "))}</span></th><td class="evidence"><p>{_text(evidence)}</p>{fix}</td>'
            f'<td class="time"><span>{_duration(check["seconds"])}</span>'
            f'<meter-bar style="--part:{max(check["seconds"] / longest, 0.01):.3f}"></meter-bar></td>'
            f'<td class="trend">{sparkline(points)}</td></tr>'
        )
    return (
        f'<section class="service" id="{escape(name)}"><h2>{escape(name)}</h2><p class="facts">{facts}</p>{older}'
        '<table><thead><tr><th scope="col">Check</th><th scope="col">Evidence</th><th scope="col">Time</th>'
        f'<th scope="col">Earlier runs</th></tr></thead><tbody>{"".join(rows)}</tbody></table>{_left_out(entry)}</section>'
    )


def _left_out(entry: Mapping[str, Any]) -> str:
    reasons = entry.get("left_out")
    if not isinstance(reasons, Mapping) or not reasons:
        return ""
    told = "; ".join(f"{escape(str(name).replace('_', ' '))} ({_text(str(why))})" for name, why in reasons.items())
    return f'<p class="left-out">Not asked, as declared: {told}</p>'


def _icon(colour: str) -> str:
    return (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' "
        f"fill='%23{colour}'/%3E%3C/svg%3E"
    )


_ICON = {"good": _icon("1a8754"), "bad": _icon("c8323c")}

_STYLE = """
:root{--back:#f6f5f1;--card:#fff;--ink:#20242a;--soft:#646a73;--line:#e3e1da;--good:#187a4c;--good-back:#e4f3ea;
--bad:#bb2b36;--bad-back:#fbe9e8;--bar:#c9d3dc;--mark:#fff;--shadow:0 1px 2px #2a2a1a12,0 4px 16px #2a2a1a0d}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--card:#1c2026;--ink:#e8eaed;--soft:#9ba3ad;--line:#2e343c;
--good:#5fcf97;--good-back:#17332a;--bad:#ff8b8b;--bad-back:#3a2023;--bar:#3f4a56;--mark:#14171b;--shadow:none}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:66rem;padding:3rem 1.25rem 4rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1,h2,p,ol{margin:0}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
a{color:inherit}
a:focus-visible{outline:2px solid var(--good);outline-offset:3px}
.kicker{font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:var(--soft)}
h1{font-size:2.1rem;line-height:1.2;font-weight:650;letter-spacing:-.015em;overflow-wrap:anywhere}
.verdict{display:inline-flex;align-items:center;gap:.55rem;margin:1.1rem 0 .6rem;
padding:.45rem 1rem .45rem .6rem;border-radius:2rem}
.verdict.good{background:var(--good-back);color:var(--good)}
.verdict.bad{background:var(--bad-back);color:var(--bad)}
.when,.facts,.model,footer,.older,.left-out{color:var(--soft);font-size:.92rem}
.mark{flex:none;width:1.15em;height:1.15em}
.mark circle{fill:var(--good)}
.mark.bad circle{fill:var(--bad)}
.mark path{fill:none;stroke:var(--mark);stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}
.past{margin:1.8rem 0 0;color:var(--soft);font-size:.85rem}
.past ol{display:flex;gap:3px;padding:0;list-style:none;height:26px}
.past li{position:relative;flex:0 1 12px;border-radius:3px;background:var(--good);opacity:.75}
.past li.bad{background:var(--bad)}
.past li:hover{opacity:1}
.past li:last-child{opacity:1;box-shadow:0 0 0 2px var(--back),0 0 0 3.5px var(--soft)}
.past span{position:absolute;z-index:1;left:0;top:32px;width:max-content;max-width:16rem;padding:.3rem .6rem;border-radius:6px;
background:var(--ink);color:var(--back);display:none}
.past li:nth-child(n+16) span{left:auto;right:0}
.past li:hover span{display:block}
.past p{margin-top:.45rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem;margin:2rem 0 3rem}
.card{display:block;padding:1.1rem 1.2rem 1rem;border:1px solid var(--line);border-radius:14px;background:var(--card);
box-shadow:var(--shadow);text-decoration:none;min-width:0;transition:transform .15s}
.card.bad{border-color:var(--bad)}
@media (prefers-reduced-motion:no-preference){.card:hover{transform:translateY(-2px)}}
.card h2{display:flex;align-items:center;gap:.5rem;font-size:1.1rem;font-weight:620;overflow-wrap:anywhere}
.model{overflow-wrap:anywhere}
.figures{display:flex;align-items:flex-end;gap:1.4rem;margin-top:1rem}
.figures b{display:block;font-size:1.55rem;font-weight:600;line-height:1.1;font-variant-numeric:tabular-nums}
.figures small{font-size:.6em;font-weight:500;color:var(--soft)}
.figures i{font-style:normal;font-size:.8rem;color:var(--soft)}
.figures .spark{margin-left:auto;width:88px;margin-bottom:.35rem}
.service{margin:0 0 3rem;scroll-margin-top:1.5rem}
.service>h2{font-size:1.35rem;font-weight:640;letter-spacing:-.01em}
.facts{overflow-wrap:anywhere}
.left-out{margin-top:.7rem}
.older{margin-top:.5rem;padding-left:.7rem;border-left:3px solid var(--line)}
table{width:100%;margin-top:1rem;border-collapse:separate;border-spacing:0;background:var(--card);border:1px solid var(--line);
border-radius:14px;box-shadow:var(--shadow);overflow:hidden}
th,td{padding:.6rem .9rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;font-size:.8rem;font-weight:500;color:var(--soft)}
tbody th{width:14.5rem;font-weight:560}
tbody th>span{display:flex;align-items:flex-start;gap:.55rem}
tbody th .mark{margin-top:.18em}
tr.bad{background:var(--bad-back)}
.evidence{overflow-wrap:anywhere}
tr.good .evidence{color:var(--soft)}
.remedy{margin-top:.35rem;font-weight:560}
.remedy::before{content:"What to do: ";color:var(--bad)}
.time{width:7rem;white-space:nowrap;font-variant-numeric:tabular-nums}
meter-bar{display:block;height:4px;margin-top:.35rem;border-radius:2px;
background:linear-gradient(var(--bar) 0 0) 0/calc(100%*var(--part)) 100% no-repeat}
.trend{width:8.5rem}
.spark{display:block;width:112px;height:22px;overflow:visible}
.spark polyline{fill:none;stroke:var(--soft);stroke-width:1.3;stroke-linejoin:round;opacity:.75}
.spark circle{fill:var(--ink)}
.spark circle.bad{fill:var(--bad)}
footer{max-width:44rem}
@media (max-width:44rem){body{padding-top:1.75rem}thead{display:none}table,tbody,tr,th,td{display:block;width:auto}
tr{padding:.65rem .95rem;border-top:1px solid var(--line)}tbody tr:first-child{border-top:0}
th,td,tbody th{width:auto;padding:0;border:0}.evidence{margin:.15rem 0 .25rem}
.time{display:flex;align-items:center;gap:.7rem}meter-bar{flex:1;margin:0}.trend:empty{display:none}.trend{margin-top:.4rem}}
@media print{body{max-width:none;padding:0;background:#fff}.card,table{box-shadow:none;break-inside:avoid}}
"""
