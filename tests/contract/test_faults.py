"""Every fault that the project answers for has a test, or says why it has none."""

from pathlib import Path
from typing import Any

import yaml

from tests import catalogs
from tests.contract.test_docs import docs
from tests.faults import record

OWNED = {*range(1, 9), 16, *range(18, 32), 33, 34, *range(38, 45), 46, 47}
ROWS = catalogs.read("tests/faults/rows.yml")
TABLE = docs.faults()["faults"]
RETURN_SECONDS = 15  # that a release may take longer to answer again than the slowest boot on its record


def test_no_row_is_forgotten() -> None:
    assert set(ROWS) >= OWNED
    for number, row in ROWS.items():
        assert {"fault", "expected"} <= set(row) <= {"fault", "expected", "within", "gpu", "missing"}, number


def test_a_row_has_a_test_or_says_why_not() -> None:
    for number, row in TABLE.items():
        if row["tests"]:
            assert not row["missing"], f"row {number} has a test now: take `missing` out of tests/faults/rows.yml"
        else:
            assert row["missing"], f"row {number} has no test: say why under `missing` in tests/faults/rows.yml"


def test_what_needs_a_gpu_is_said_to_be_a_stand_in() -> None:
    for number, row in TABLE.items():
        for test in row["tests"]:
            assert test["by"] in ("real", "simulated", "recorded"), (number, test["name"])
            assert test["by"] != "real" or not row["gpu"], (number, test["name"])


def test_what_was_recorded_belongs_to_a_test() -> None:
    """A test that was renamed must not leave its old result in the table's file."""
    known = {f"{test['file']}::{test['name']}" for row in TABLE.values() for test in row["tests"]}
    path = catalogs.ROOT / "tests/faults/results.json"
    recorded = yaml.safe_load(path.read_text()) if path.is_file() else {}
    assert set(recorded) <= known
    assert not recorded or path.read_text() == record.dumps(recorded)


def test_what_was_recorded_is_within_what_is_demanded() -> None:
    """No test measures time; their recorded results are held against the rows, and a return against the boots on record."""
    results = record.read(catalogs.ROOT / "tests/faults/results.json")
    late = []
    for number, row in TABLE.items():
        for test in row["tests"]:
            found = results.get(f"{test['file']}::{test['name']}", {})
            within = {**ROWS[number].get("within", {})}
            if "boot_seconds" in found:
                within["recovery_seconds"] = found["boot_seconds"] + RETURN_SECONDS
            late += [
                (number, test["name"], name, found[name]) for name, most in within.items() if found.get(name, 0) > most
            ]
        for name in ROWS[number].get("within", {}):
            assert any(name in results.get(f"{t['file']}::{t['name']}", {}) for t in row["tests"]), (number, name)
    assert not late


def test_markers_are_read(tmp_path: Path) -> None:
    source = tmp_path / "test_it.py"
    source.write_text(
        '@pytest.mark.slow\n@pytest.mark.fault(42, "found", by="simulated")\n@pytest.mark.fault(1, "ended")\n'
        "def test_a(): ...\n\ndef test_b(): ...\n"
    )
    assert list(docs.fault_markers(source.read_text())) == [
        ("test_a", 42, "found", "simulated"),
        ("test_a", 1, "ended", "real"),
    ]


def test_the_newer_result_of_two_checkouts_is_kept() -> None:
    ours: dict[str, Any] = {"a": {"date": "2026-11-24", "passed": False}, "b": {"date": "2026-11-25", "passed": True}}
    others: dict[str, Any] = {
        "a": {"date": "2026-11-25", "passed": True},
        "b": {"date": "2026-11-24", "passed": False},
        "c": {"date": "2026-11-01"},
    }
    assert record.merged(ours, others) == {"a": others["a"], "b": ours["b"], "c": others["c"]}


def test_numbers_of_a_test_are_shown_beside_its_recovery() -> None:
    assert docs.recovery({}) == "" and docs.recovery({"kills": 31}) == "31 runs killed"
    assert docs.recovery({"recovery_seconds": 0.0}) == "0 s"
    assert docs.recovery({"busy_seconds": 1800.4, "answers": 610}) == "busy for 1800 s; 610 answers"
    shown = docs.recovery({"recovery_seconds": 71.4, "found_seconds": 2.0, "boot_seconds": 60.0})
    assert shown == "71.4 s (found after 2 s; recorded boot 60 s)"
