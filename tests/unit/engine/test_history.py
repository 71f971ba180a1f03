"""What is kept of a release's boots and speeds, and what follows from it."""

import json
from pathlib import Path

import pytest
from ansible.module_utils.llm.engine import history


def boot(at: float, seconds: float) -> history.Boot:
    return {"at": at, "seconds": seconds, "cache": "unused", "phases": {}}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boots": 3}', '{"boots": [3, {"at": "x", "seconds": 1}, {"at": true, "seconds": 1}]}']
)
def test_what_makes_no_sense_is_no_history(text: str) -> None:
    assert history.parse(text) == {"boots": [], "speeds": []}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / history.file_name("micro", "0123456789ab")
    for at in range(history.KEPT + 3):
        assert history.add_boot(path, boot(at, 10 + at)) is True
    assert history.add_boot(path, boot(history.KEPT + 2, 99)) is False
    assert [entry["at"] for entry in history.read(path)["boots"]] == list(range(3, history.KEPT + 3))


def test_files_of_old_releases_go_and_those_of_others_stay(tmp_path: Path) -> None:
    others = [tmp_path / history.file_name("micro-cpu", f"{n:012x}") for n in range(3)]
    for path in others:
        path.write_text(json.dumps({"boots": [boot(1, 1)]}))
    for n in range(history.RELEASES + 2):
        history.add_boot(tmp_path / history.file_name("micro", f"{n:012x}"), boot(n, 1))
    assert len(history.of_service(tmp_path, "micro")) == history.RELEASES
    assert sorted(history.of_service(tmp_path, "micro-cpu")) == [f"{n:012x}" for n in range(3)]
    assert f"{history.RELEASES + 1:012x}" in history.of_service(tmp_path, "micro")


def test_boot_record() -> None:
    assert history.boot_record({"boots": [], "speeds": []}) is None
    found = history.boot_record({"boots": [boot(1, 40.0), boot(2, 90.0), boot(3, 42.0)], "speeds": []})
    assert found == {"boots": 3, "last": 42.0, "slowest": 90.0, "typical": 42.0, "expected": 105.0}


@pytest.mark.parametrize(
    ("boots", "declared", "seconds"),
    [
        ([], 1800, 1800),  # nothing is known
        ([boot(1, 40.0)], 1800, 900),
        ([boot(1, 40.0), boot(2, 110.0)], 1800, 1100),  # ten times the slowest
        ([boot(1, 250.0)], 1800, 1800),  # what is declared is never exceeded
        ([boot(1, 40.0)], 20, 20),
    ],
)
def test_a_boot_gets_as_long_as_those_before_suggest(boots: list[history.Boot], declared: int, seconds: int) -> None:
    assert history.patience(history.boot_record({"boots": boots, "speeds": []}), declared) == seconds


def test_boot_records_of_a_service(tmp_path: Path) -> None:
    history.add_boot(tmp_path / history.file_name("micro", "0123456789ab"), boot(1, 40.0))
    assert history.boot_records(tmp_path, "micro")["0123456789ab"]["expected"] == 55.0
    assert history.boot_records(tmp_path / "nowhere", "micro") == {}
