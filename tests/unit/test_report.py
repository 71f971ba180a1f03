"""What clients got as verdict, JUnit XML and page; and what is kept of earlier runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.engine import verdict as engine_verdict
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
    assert "release <code>feed</code>" in report_results.page("box", runs, newest)


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
    assert "Not asked in this run" in report_results.page("box", runs, last)


# -- page ---------------------------------------------------------------------------------------------------------------


def page(*checks: Any, runs: int = 1, **more: Any) -> str:
    history: Any = ([], {})
    for run in range(runs):
        _, history = told(("chat", returned("chat", *checks, **more)), history=history, at=AT + run)
    return report_results.page("box", *history)


def test_the_page_says_what_failed_with_evidence_and_remedy() -> None:
    text = page(check("a"), check("tool_auto", False, remedy="Set `tool-call-parser`"))
    words = " ".join(Reader(text).texts)
    for said in ("1 of 2 checks failed", "tool auto", "evidence of tool_auto", "chat-model", "b325578894a7", "98"):
        assert said in words
    assert "<code>tool-call-parser</code>" in text
    assert "All 2 checks passed" in " ".join(Reader(page(check("a"), check("b"))).texts)


def test_the_page_names_the_processor() -> None:
    _, (runs, last) = told(("chat", returned("chat", check("a"))))
    assert "Processor: AMD <EPYC>, 2 cores, fma avx2" in Reader(report_results.page("box", runs, last, MACHINE)).texts
    assert "Processor" not in report_results.page("box", runs, last)
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


def test_a_sparkline_shows_failed_runs_and_needs_two() -> None:
    assert report_results.sparkline([(True, 1.0)]) == ""
    svg = ET.fromstring(report_results.sparkline([(True, 1.0), (False, 3.0), (True, 2.0), (True, 1.0)]))
    line = next(e.get("points") for e in svg if e.tag == "polyline") or ""
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights[1] < heights[2] < heights[0] == heights[3]
    assert [e.get("class") for e in svg if e.tag == "circle"] == ["bad", ""]
    flat = ET.fromstring(report_results.sparkline([(True, 1.0), (True, 1.0)]))
    assert {p.split(",")[1] for p in (flat[1].get("points") or "").split()} == {"11.0"}


def test_a_page_without_speed_or_with_one_check_is_whole() -> None:
    text = page(check("a", seconds=0), ttft_ms=None)
    assert "no stream" in " ".join(Reader(text).texts)


# -- the action ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def action(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the action plugin with arguments; see tests/unit/test_mutations.py for the other plugin of the controller."""
    import importlib.util
    from unittest.mock import MagicMock

    place = importlib.util.spec_from_file_location(
        "llm_report_action", Path(__file__).parents[2] / "action_plugins" / "llm_report.py"
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
