"""What clients got as verdict, JUnit XML and page; and what is kept of earlier runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from ansible.module_utils.llm.engine import verdict as engine_verdict
from ansible.module_utils.llm.report import page as report_page
from ansible.module_utils.llm.report import results as report_results

AT = 1795610000.0
ABOUT = {name: {"model": f"{name}-model", "description": "", "release": "b325578894a7"} for name in ("chat", "micro")}


def check(name: str, ok: bool = True, seconds: float = 0.25, **more: Any) -> Any:
    return {"id": name, "ok": ok, "seconds": seconds, "evidence": f"evidence of {name}", **more}


def returned(service: str, *checks: Any, **more: Any) -> dict[str, Any]:
    """A result of llm_smoke."""
    verdict = engine_verdict.verdict({service: engine_verdict.service_verdict(checks)})
    return {"ok": verdict["ok"], "verdict": verdict, "ttft_ms": 98.0, "endpoint": "http://127.0.0.1:5010/v1", **more}


def told(*results: tuple[str, dict[str, Any]], history: Any = ((), {}), at: float = AT) -> Any:
    """Verdict and history after a run with these results."""
    verdict, noted = report_results.collect([name for name, _ in results], [result for _, result in results])
    return verdict, report_results.add_run(history, verdict, noted, ABOUT, at)


def shown(runs: Any, last: Any, machine: Any = None) -> str:
    """The page about a host."""
    return report_page.render(report_results.page_data("box", runs, last, machine))


class Reader(HTMLParser):
    """Texts, tags and attributes of a page; fails where tags are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# -- verdict ------------------------------------------------------------------------------------------------------------


def test_a_verdict_holds_what_came_back_of_each_service() -> None:
    verdict, noted = report_results.collect(
        ["chat", "micro"], [returned("chat", check("a")), returned("micro", check("b", False))]
    )
    assert (verdict["ok"], verdict["services"]["chat"]["ok"], verdict["services"]["micro"]["ok"]) == (
        False,
        True,
        False,
    )
    assert noted["chat"] == {"ttft_ms": 98.0, "endpoint": "http://127.0.0.1:5010/v1", "left_out": None}


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"failed": True, "msg": "The OpenAI SDK is missing"}, "The OpenAI SDK is missing"),
        ({"unreachable": True, "msg": "Failed to connect: key sk-abcdefghijklmnop"}, "Failed to connect: key sk-***"),
        (None, "the run ended before it was its turn"),
    ],
)
def test_a_service_without_a_verdict_has_failed_and_keeps_no_other_back(result: Any, why: str) -> None:
    results = [returned("chat", check("a")), *([result] if result else [])]
    verdict, _ = report_results.collect(["chat", "micro"], results)
    assert verdict["services"]["chat"]["ok"] and not verdict["ok"]
    (only,) = verdict["services"]["micro"]["checks"]
    assert (only["id"], only["ok"], only["evidence"]) == ("asked", False, why)
    assert report_results.proofs(verdict) == [
        "chat: 1 of 1 check passed in 250 ms",
        "a 250 ms",
        "micro: 0 of 1 check passed in 0 ms",
        "asked FAILED",
    ]


def test_a_release_that_failed_keeps_its_checks_and_says_where_it_failed() -> None:
    step = {"step": "Make the release current", "cause": "cannot write /opt/llm:\n no space", "release": "feed"}
    verdict, noted = report_results.collect(
        ["chat", "micro", "door"],
        [
            returned("chat", check("a"), release="cafe"),
            {"step": "Wait for the engine", "cause": "killed; key sk-abcdefghijklmnop", "release": "feed"},
            {**returned("door", check("a")), **step},
        ],
    )
    assert (verdict["ok"], verdict["services"]["chat"]["ok"], noted["micro"]["release"]) == (False, True, "feed")
    (only,) = verdict["services"]["micro"]["checks"]
    assert (only["id"], only["ok"]) == ("deployed", False)
    assert only["evidence"] == 'failed at "Wait for the engine": killed; key sk-***'
    made, last = verdict["services"]["door"]["checks"]
    assert made["ok"] and last["evidence"] == 'failed at "Make the release current": cannot write /opt/llm: no space'
    # The page names the release that failed, and not the one that serves on.
    runs, newest = report_results.add_run(([], {}), verdict, noted, ABOUT, AT)
    assert (newest["micro"]["release"], newest["chat"]["release"]) == ("feed", "cafe")
    assert "release <code>feed</code>" in shown(runs, newest)


def test_proofs_fit_a_terminal() -> None:
    verdict, _ = told(("chat", returned("chat", *(check(f"check_{n}", seconds=n) for n in range(30)))))
    lines = report_results.proofs(verdict, 60)
    assert lines[0] == "chat: 30 of 30 checks passed in 7 min 15 s"
    assert all(len(line) <= 60 and line.startswith("check ") for line in lines[1:])
    assert sum(line.count("check") for line in lines[1:]) == 30


# -- JUnit --------------------------------------------------------------------------------------------------------------


def test_junit_counts_and_escapes() -> None:
    odd = check("b", False, evidence='<&"> \x00\x1b said \ud800', remedy="Restart it")
    verdict, _ = told(("chat", returned("chat", check("a"), odd)), ("micro", returned("micro", check("c"))))
    suites = ET.fromstring(report_results.junit(verdict, "host & co", AT).encode())
    assert [(s.get("name"), s.get("tests"), s.get("failures"), s.get("time")) for s in suites] == [
        ("chat", "2", "1", "0.500"),
        ("micro", "1", "0", "0.250"),
    ]
    failure = suites.find(".//failure")
    assert failure is not None and failure.text == '<&"> \ufffd\ufffd said \ufffd Restart it'
    assert [case.get("name") for case in suites.iter("testcase") if case.find("failure") is not None] == ["b"]


MACHINE: dict[str, Any] = {"processor": {"model": "AMD <EPYC>", "cores": 2, "features": ["fma", "avx2"]}}


def test_junit_has_the_processor_as_properties() -> None:
    verdict, _ = told(("chat", returned("chat", check("a"))), ("micro", returned("micro", check("b"))))
    for suite in ET.fromstring(report_results.junit(verdict, "box", AT, MACHINE)):
        assert suite[0].tag == "properties"
        found = {p.get("name"): p.get("value") for p in suite[0]}
        assert found == {"processor.model": "AMD <EPYC>", "processor.cores": "2", "processor.features": "fma avx2"}
    assert "properties" not in report_results.junit(verdict, "box", AT)


# -- history ------------------------------------------------------------------------------------------------------------


def test_history_is_read_as_it_was_written_and_has_an_end() -> None:
    history: Any = ([], {})
    for run in range(report_results.KEPT + 5):
        _, history = told(("chat", returned("chat", check("a"))), history=history, at=AT + run)
    assert report_results.parse_history(report_results.history_text(*history)) == history
    assert [run["at"] for run in history[0]] == [AT + run for run in range(5, report_results.KEPT + 5)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"runs": 5, "last": 5}',
        '{"runs": [{"at": "x"}], "last": {"chat": {"at": 5}}}',
        '{"runs": [{"at": 1}]}',
    ],
)
def test_a_damaged_history_is_an_empty_one(text: str) -> None:
    assert report_results.parse_history(text) == ([], {})


def test_a_service_that_was_not_asked_keeps_its_last_result_while_it_is_declared() -> None:
    _, history = told(("chat", returned("chat", check("a"))), ("gone", returned("gone", check("a"))))
    assert set(history[1]) == {"chat", "gone"}
    _, (runs, last) = told(("micro", returned("micro", check("b"))), history=history, at=AT + 60)
    assert {name: entry["at"] for name, entry in last.items()} == {"chat": AT, "micro": AT + 60}
    assert "Not asked in this run" in shown(runs, last)


# -- page ---------------------------------------------------------------------------------------------------------------


def page(*checks: Any, runs: int = 1, **more: Any) -> str:
    history: Any = ([], {})
    for run in range(runs):
        _, history = told(("chat", returned("chat", *checks, **more)), history=history, at=AT + run)
    return shown(*history)


def test_the_page_says_what_failed_with_evidence_and_remedy() -> None:
    text = page(check("a"), check("tool_auto", False, remedy="Set `tool-call-parser`"))
    words = " ".join(Reader(text).texts)
    for said in ("1 of 2 checks failed", "tool auto", "evidence of tool_auto", "chat-model", "b325578894a7", "98"):
        assert said in words
    assert "<code>tool-call-parser</code>" in text
    assert "All 2 checks passed" in " ".join(Reader(page(check("a"), check("b"))).texts)


def test_the_page_names_the_processor() -> None:
    _, (runs, last) = told(("chat", returned("chat", check("a"))))
    assert "Processor: AMD <EPYC>, 2 cores, fma avx2" in Reader(shown(runs, last, MACHINE)).texts
    assert "Processor" not in shown(runs, last)
    assert report_results.processor({"processor": {"model": "", "cores": 1, "features": []}}) == (
        "of unknown model, 1 core, none of the features that are looked for"
    )


def test_the_page_names_what_was_left_out_on_purpose() -> None:
    text = page(check("a"), left_out={"tool_auto": "the model calls no `tools`"})
    assert "Not asked, as declared: tool auto (the model calls no <code>tools</code>)" in text
    assert "Not asked, as declared" not in page(check("a"), left_out={})


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    text = page(check("a", evidence='<script src="https://example.org/x.js">alert(1)</script> url(//x) "\'&'), runs=3)
    reader = Reader(text)
    assert "script" not in {tag for tag, _ in reader.tags}
    sources = {attrs[key] or "" for _, attrs in reader.tags for key in ("src", "href") if key in attrs}
    assert {s for s in sources if not s.startswith(("#", "data:"))} == {"verdict.json", "junit.xml"}
    assert "url(" not in text.partition("<style>")[2].partition("</style>")[0]
    assert '<script src="https://example.org/x.js">alert(1)</script>' in "".join(reader.texts)


HOSTILE = '<script>alert("1")</script>\' onload="2" {{ page.host }} {% raw %} &amp;'


def test_whatever_is_told_is_text_on_the_page_and_never_markup() -> None:
    """Also in names, of which Ansible allows fewer today than a page has to stand."""
    odd = check(HOSTILE, False, evidence=f"said {HOSTILE}", remedy=f"Try {HOSTILE}")
    result = returned(HOSTILE, odd, left_out={HOSTILE: HOSTILE}, release=HOSTILE) | {"endpoint": HOSTILE}
    verdict, noted = report_results.collect([HOSTILE], [result])
    about = {HOSTILE: {"model": HOSTILE, "description": HOSTILE}}
    runs: Any = []
    last: Any = {}
    for run in range(2):
        runs, last = report_results.add_run((runs, last), verdict, noted, about, AT + run)
    data = report_results.page_data(HOSTILE, runs, last, {"processor": {"model": HOSTILE, "cores": 1, "features": []}})
    odd_page, plain = Reader(report_page.render(data)), Reader(page(check("a", False, remedy="Try"), runs=2))
    words = "".join(odd_page.texts)
    for before in ("said", "Try", "Processor:", "release", "Not asked, as declared:"):
        assert f"{before} {HOSTILE}" in words
    places = (
        "title h1 processor card model h2 description endpoint release check evidence remedy left-out reason".split()
    )
    assert words.count(HOSTILE) == len(places)
    assert {tag for tag, _ in odd_page.tags} == {tag for tag, _ in plain.tags}
    assert {key for _, attrs in odd_page.tags for key in attrs} == {key for _, attrs in plain.tags for key in attrs}
    (card,) = (attrs for tag, attrs in odd_page.tags if attrs.get("class") == "card bad")
    assert card["href"] == f"#{HOSTILE}"


def test_what_stands_in_backticks_is_code_and_a_lone_one_stays() -> None:
    text = page(check("a", evidence="`a<b>` and `c`, a ` alone"))
    assert "<p><code>a&lt;b&gt;</code> and <code>c</code>, a ` alone</p>" in text


def test_a_template_that_asks_for_what_is_not_there_is_an_error() -> None:
    _, (runs, last) = told(("chat", returned("chat", check("a"))))
    data = report_results.page_data("box", runs, last)
    lacking: Any = SimpleNamespace(**{key: value for key, value in vars(data).items() if key != "processor"})
    with pytest.raises(jinja2.UndefinedError, match="processor"):
        report_page.render(lacking)


def test_the_stylesheet_is_in_the_page_as_it_is() -> None:
    style = (Path(report_page.__file__).parent / "page.css").read_text(encoding="utf-8")
    assert page(check("a")).partition("<style>")[2].partition("</style>")[0].strip() == style.strip()


def test_a_check_without_earlier_runs_has_an_empty_cell() -> None:
    """The stylesheet hides a cell that is empty, which one with white space is not."""
    assert '<td class="trend"></td>' in page(check("a"))
    assert '<td class="trend"></td>' not in page(check("a"), runs=2)


def test_a_sparkline_shows_failed_runs_and_needs_two() -> None:
    assert report_results.sparkline([(True, 1.0)], "s") is None
    line = report_results.sparkline([(True, 1.0), (False, 3.0), (True, 2.0), (True, 1.0)], "s")
    assert line is not None
    heights = [spot.y for spot in line.spots]
    assert heights[1] < heights[2] < heights[0] == heights[3]
    assert (line.low, line.high, line.failed) == (1.0, 3.0, 1)
    assert (line.spots[0].x, line.spots[-1].x) == (3.0, line.width - 3.0)
    flat = report_results.sparkline([(True, 1.0), (True, 1.0)], "s")
    assert flat is not None and {spot.y for spot in flat.spots} == {11.0}


def test_a_page_draws_the_times_of_earlier_runs() -> None:
    history: Any = ([], {})
    for run, ok in enumerate((True, False, True)):
        history = told(("chat", returned("chat", check("a", ok, 1.0 + run))), history=history, at=AT + run)[1]
    text = shown(*history)
    (svg,) = ET.fromstring(text.partition('<td class="trend">')[2].partition("</td>")[0]).iter("svg")
    assert svg.get("aria-label") == svg.findtext("title") == "3 runs, 1 to 3 s, 1 failed"
    assert [e.get("points") for e in svg if e.tag == "polyline"] == ["3.0,19.0 56.0,11.0 109.0,3.0"]
    assert [(e.get("class"), e.get("r")) for e in svg if e.tag == "circle"] == [("bad", "1.9"), ("", "2.4")]
    assert "2 of the last 3 runs all right" in text and "3 runs, 98 to 98 ms, 1 failed" in text


def test_a_first_run_has_no_past() -> None:
    assert "Earlier runs" in page(check("a")) and 'aria-label="Earlier runs"' not in page(check("a"))


def test_a_page_without_speed_or_with_one_check_is_whole() -> None:
    text = page(check("a", seconds=0), ttft_ms=None)
    assert "no stream" in " ".join(Reader(text).texts)


# -- the action ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def action(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the action plugin with arguments; see tests/unit/declare/test_mutations.py for the other plugin of the controller."""
    import importlib.util
    from unittest.mock import MagicMock

    place = importlib.util.spec_from_file_location(
        "llm_report_action", Path(__file__).parents[3] / "action_plugins" / "llm_report.py"
    )
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)

    def run(check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        task = MagicMock(async_val=0, check_mode=check_mode, args=arguments)
        plugin = module.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
        monkeypatch.setattr(
            plugin, "validate_argument_spec", lambda **_: (None, {"about": {}, "machine": {}, **arguments})
        )
        monkeypatch.setattr(module.ActionBase, "run", lambda *_: {})
        found: dict[str, Any] = plugin.run(None, {"inventory_hostname": "box"})
        return found

    return run


def test_the_action_writes_all_four_also_when_a_service_failed(action: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    results = [returned("chat", check("a", False)), {"unreachable": True, "msg": "gone"}]
    for _ in range(2):
        found = action(services=["chat", "micro"], results=results, folder=str(folder), machine=MACHINE)
    assert (found["ok"], found["changed"], found["page"]) == (False, False, str(folder / "report.html"))
    assert {p.name for p in folder.iterdir()} == {"verdict.json", "junit.xml", "report.html", "runs.json"}
    assert json.loads((folder / "verdict.json").read_text()) == found["verdict"]
    assert found["verdict"].keys() == {"ok", "services", "host"} and found["verdict"]["host"] == MACHINE
    assert "AMD &lt;EPYC&gt;" in (folder / "report.html").read_text() and "AMD" in (folder / "junit.xml").read_text()
    assert len(json.loads((folder / "runs.json").read_text())["runs"]) == 2


def test_the_action_writes_nothing_in_check_mode_or_about_nothing(action: Any, tmp_path: Path) -> None:
    assert action(check_mode=True, services=["chat"], results=[returned("chat", check("a"))], folder=str(tmp_path))[
        "ok"
    ]
    assert not action(services=[], results=[], folder=str(tmp_path))["ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(action: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match=r"llm_report_dir: cannot write .*Choose another folder"):
        action(services=["chat"], results=[returned("chat", check("a"))], folder=str(tmp_path / "file"))
