"""Files of an operator's own reach the engine: tool parser, chat template, middleware."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.demo import CHECKOUT, MODEL, QUESTION, Machine, Playbook

pytestmark = pytest.mark.e2e

DECLARED = """
llm_services_custom:
  micro-cpu:
    plugins:
      tool_parser: own_tools.py
      chat_template: echo.jinja
      middleware: ["mark.py:Mark"]
    args:
      enable-auto-tool-choice: true
      tool-call-parser: own
"""


def own_files(arguments: list[str]) -> Path:
    """Put the plugin files where the inventory's own files are looked for."""
    place = Path(arguments[1]) / "files"
    shutil.copytree(CHECKOUT / "tests/e2e/plugins", place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.mark.usefixtures("restored")
def test_own_files_are_served_with(playbook: Playbook, machine: Machine, inventory: Callable[[str], list[str]]) -> None:
    arguments = inventory(DECLARED)
    place = own_files(arguments)
    run = playbook(*arguments, "site.yml").passed()
    assert "flag --tool-parser-plugin: none -> /plugins/own_tools.py" in run.text
    answer = machine.client().chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=64,
    )
    assert answer.headers["x-marked-by"] == "mark"
    assert answer.parse().choices[0].message.content
    # The chat template is ours: the model's own puts a system prompt of 20 tokens and more before the question.
    usage = answer.parse().usage
    assert usage is not None and usage.prompt_tokens < 20
    # A changed file is a reason of its own, shown before anything is done.
    (place / "mark.py").write_text((place / "mark.py").read_text().replace('b"mark"', 'b"another"'))
    predicted = playbook(*arguments, "site.yml", "--check").passed()
    assert "files plugins/mark.py" in predicted.text


@pytest.mark.usefixtures("untouched")
def test_a_plugin_that_is_not_there_is_refused(playbook: Playbook, inventory: Callable[[str], list[str]]) -> None:
    run = playbook(*inventory(DECLARED), "site.yml").refused()
    assert "llm_services.micro-cpu.plugins" in run.text and "own_tools.py" in run.text
