"""The page of results, looked at in a real browser: light and dark, wide and narrow, with everything that it can show."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.engine import verdict
from ansible.module_utils.llm.report import page as report_page
from ansible.module_utils.llm.report import results
from playwright.sync_api import Browser, Page, expect, sync_playwright

LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 360)]

# Least contrast of a text against what is behind it, as WCAG 2 counts it, with the text that has it. Transparent
# backgrounds are looked through; none of the page's colours is half transparent.
CONTRAST = """
() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const clear = c => /rgba\\(.*, 0\\)|transparent/.test(c);
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!clear(c)) return c }
    return 'rgb(255, 255, 255)' };
  let least = [99, ''];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), parent = texts.currentNode.parentElement;
    if (!text || parent.closest('svg') || !parent.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(parent).color), light(behind(parent))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, text];
  }
  return least;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, installed if it is not there."""
    if not shutil.which("chromium"):
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.DEVNULL,
        )
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root, which these tests are.
        launched = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all that pages show: a failure with its remedy, a service that was not asked, markup and long words."""
    history: Any = ([], {})
    about = {name: {"model": f"{name}-model", "description": "For the help desk"} for name in ("chat", "small")}
    for run in range(results.KEPT):
        services, newest = {}, run == results.KEPT - 1
        for name in about if not newest else ["chat"]:
            checks = [
                {"id": "answer", "ok": True, "seconds": 0.3 + run % 5 / 10, "evidence": "“<b>Paris</b>”"},
                {
                    "id": "tool_auto",
                    "ok": not newest and run % 7 != 3,
                    "seconds": 1.5,
                    "evidence": "called " + "x" * 300,
                },
            ]
            checks[1]["remedy"] = "" if checks[1]["ok"] else "Set `tool-call-parser` of the service"
            services[name] = verdict.service_verdict([verdict.CheckResult(**check) for check in checks])  # type: ignore[typeddict-item]
        noted = {name: {"ttft_ms": 90.0 + run % 4, "endpoint": "http://127.0.0.1:5010/v1"} for name in services}
        history = results.add_run(history, verdict.verdict(services), noted, about, 1795610000.0 + 3600 * run)
    file = tmp_path_factory.mktemp("page") / "report.html"
    features = (
        "fma f16c avx2 avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile".split()
    )
    machine = {"processor": {"model": "Intel(R) Xeon(R) Platinum 8481C", "cores": 44, "features": features}}
    runs, last = history
    data = results.page_data("rtx4090x3", runs, last, machine)
    file.write_text(report_page.render(data), encoding="utf-8")
    return file


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def seen(request: pytest.FixtureRequest, browser: Browser, page_file: Path) -> Iterator[Page]:
    """The page as a browser shows it; fails the test when the page loads anything or the browser complains."""
    scheme, width = request.param
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page, trouble, loaded = context.new_page(), [], []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda asked: loaded.append(asked.url))
    page.goto(page_file.as_uri())
    yield page
    assert [url for url in loaded if not url.startswith("data:")] == [page_file.as_uri()]
    assert trouble == []
    context.close()


def test_everything_is_there_to_be_seen(seen: Page) -> None:
    assert seen.title() == "rtx4090x3: 1 check failed"
    for text in (
        *("rtx4090x3", "1 of 4 checks failed", "What clients got", "of the last 30 runs all right", "“<b>Paris</b>”"),
        *("Set tool-call-parser of the service", "Not asked in this run", "chat-model"),
        "Processor: Intel(R) Xeon(R) Platinum 8481C, 44 cores, fma f16c avx2",
    ):
        assert seen.get_by_text(text, exact=False).first.is_visible(), text
    sparks = seen.locator("svg.spark")
    boxes = [sparks.nth(n).bounding_box() for n in range(sparks.count())]
    assert len(boxes) == 6 and all(box and box["height"] > 10 for box in boxes)


def test_nothing_is_cut_off_or_too_pale(seen: Page) -> None:
    width = seen.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    ratio, text = seen.evaluate(CONTRAST)
    assert ratio >= 4.5, text


def test_a_card_leads_to_its_service(seen: Page) -> None:
    seen.locator("a.card", has_text="small").click()
    assert seen.url.endswith("#small")
    expect(seen.locator("#small h2")).to_be_in_viewport()


def test_dark_is_dark(browser: Browser, page_file: Path) -> None:
    backs = {}
    for scheme in ("light", "dark"):
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(page_file.as_uri())
        backs[scheme] = sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")))
    assert backs["light"] > 600 and backs["dark"] < 150
