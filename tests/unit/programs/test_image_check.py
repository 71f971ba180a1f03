"""The parts of image_check that need no engine; the rest runs in a real image, see tests/contract."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[3] / "roles/vllm_image/files/image_check.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_check", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ic = load()

LIST = 'kinds = (\n    "deepseek_v3",\n)\nothers = (\n    "deepseek_v3",\n)\n'
PATCH = {"name": "p", "target": "/t.py", "lacks": '"glm"', "after": "kinds = (", "insert": '\n    "glm",'}


@pytest.mark.parametrize(
    ("requires", "ranges"),
    [
        (["Transformers<5.20,>=5.16.1"], {"transformers": "<5.20,>=5.16.1"}),
        (["a_b>=1", "a-b<2"], {"a-b": ">=1,<2"}),
        (["x", "y>=1; extra == 'audio'", "z>=1; sys_platform == 'win32'"], {}),
        (["outlines[all]>=1; python_version >= '3.8'"], {"outlines": ">=1"}),
    ],
)
def test_ranges_that_a_package_declares(requires: list[str], ranges: dict[str, str]) -> None:
    assert ic.declared_ranges(requires) == ranges


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (">=5", "<5.20.0,>=5.16.1", True),
        (">=5", "", True),
        ("", "", True),
        (">=6", "<5.20.0,>=5.16.1", False),
        (">=5.20", "<5.20.0,>=5.16.1", False),
        ("==5.19.0", "<5.20.0,>=5.16.1", True),
        ("==5.20.1", "<5.20.0,>=5.16.1", False),
        (">5.16.1", "<5.16.2", True),
        ("<5", ">=4.50", True),
        ("<=4.50", ">=4.50", True),
        ("<4.50", ">=4.50", False),
        ("~=5.16", "<6", True),
        ("~=5.16", ">=6", False),
        ("==5.*", "<5.20.0,>=5.16.1", True),
        (">=5.1,!=5.1.*", "<5.3", True),
        (">=5.1,!=5.1.*", "<5.2", False),
        ("==2.13.0", "==2.13.0+cpu", True),
    ],
)
def test_whether_two_ranges_have_a_version_in_common(one: str, other: str, wanted: bool) -> None:
    assert ic.compatible(one, other) is wanted
    assert ic.compatible(other, one) is wanted


@pytest.mark.parametrize(
    ("version", "satisfied"), [("5.19.0", True), ("5.21.0", False), ("5.10.0", False), ("4.57.1", False), ("", False)]
)
def test_a_requirement_is_judged_with_what_the_engine_declares(version: str, satisfied: bool) -> None:
    judged = ic.judge_requirement("Transformers>=5", {"transformers": "<5.20,>=5.16.1"}, {"transformers": version}.get)
    assert judged == {
        "requirement": "Transformers>=5",
        "package": "transformers",
        "installed": version,
        "declared": "<5.20,>=5.16.1",
        "satisfied": satisfied,
        "possible": True,
    }


@pytest.mark.parametrize(
    ("changes", "text", "state", "reason"),
    [
        ({}, LIST, "needed", ""),
        ({}, LIST.replace('"deepseek_v3"', '"glm"', 1), "there", ""),
        ({"after": '"deepseek_v3",'}, LIST, "unfit", "is 2 times in /t.py, where it must be exactly once"),
        ({"after": "sorts = ("}, LIST, "unfit", "'sorts = (' is not in /t.py"),
        ({"insert": '\n    "glm" = '}, LIST, "unfit", "no valid Python"),
    ],
)
def test_a_patch_is_needed_or_there_or_refused(changes: dict[str, str], text: str, state: str, reason: str) -> None:
    judged = ic.judge_patch({**PATCH, **changes}, Path("/t.py"), text)
    assert judged.state == state and reason in judged.reason
    assert bool(judged.text) is (state == "needed")


def test_a_patch_without_its_target_is_refused() -> None:
    judged = ic.judge_patch({**PATCH, "target": "vllm.gone"}, None, "")
    assert (judged.state, judged.reason) == ("unfit", "there is no vllm.gone here")


def test_modules_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "icpackage"
    (package / "sub").mkdir(parents=True)
    for file in ("__init__.py", "one.py", "sub/__init__.py"):
        (package / file).write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ic.locate("icpackage.one") == package / "one.py"
    assert ic.locate("icpackage.sub") == package / "sub/__init__.py"
    assert ic.locate("icpackage") == package / "__init__.py"
    assert ic.locate("icpackage.two") is None
    assert ic.locate("nowhere.at.all") is None
    assert ic.locate(str(package / "one.py")) == package / "one.py"
    assert ic.locate(str(package / "two.py")) is None


class TestApply:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        path = tmp_path / "t.py"
        path.write_text(LIST)
        return path

    def test_writes_what_is_needed_once(self, target: Path) -> None:
        request = {"patches": [{**PATCH, "target": str(target)}]}
        answer, good = ic.apply(request)
        assert good and answer["patches"][0]["state"] == "needed"
        assert target.read_text() == LIST.replace("kinds = (", 'kinds = (\n    "glm",')
        answer, good = ic.apply(request)
        assert good and answer["patches"][0]["state"] == "there"

    def test_patches_of_one_file_build_on_each_other(self, target: Path) -> None:
        second = {"name": "q", "target": str(target), "lacks": '"glm2"', "after": '"glm",', "insert": ' "glm2",'}
        _, good = ic.apply({"patches": [{**PATCH, "target": str(target)}, second]})
        assert good and '"glm", "glm2",' in target.read_text()

    def test_writes_nothing_when_one_does_not_fit(self, target: Path) -> None:
        bad = {**PATCH, "target": str(target), "lacks": '"x"', "after": "gone", "insert": '"x"'}
        _, good = ic.apply({"patches": [{**PATCH, "target": str(target)}, bad]})
        assert not good and target.read_text() == LIST


def test_an_error_is_an_answer() -> None:
    def fail() -> tuple[bool, str]:
        raise SystemExit("no\nway")

    assert ic.attempt("x", fail) == ic.Proof("x", False, "SystemExit: no way")


def test_nothing_is_asked_of_an_engine_that_cannot_be_imported() -> None:
    request = {"proofs": {"imports": ["no_such_module_here"], "architectures": ["A"], "tool_parsers": ["t"]}}
    answer, good = ic.prove(request)
    assert not good
    assert [(p["proof"], p["ok"]) for p in answer["proofs"]] == [("import no_such_module_here", False)]


@pytest.mark.parametrize(
    ("argv", "stdin", "says"),
    [
        (["inspect"], "{", "not JSON"),
        (["inspect"], "[]", "mapping"),
        (["look"], "{}", "inspect, apply, prove"),
        ([], "{}", "one of"),
    ],
)
def test_a_request_of_another_shape_is_refused(
    argv: list[str], stdin: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    assert ic.main(["image_check", *argv]) == 2
    out, err = capsys.readouterr()
    assert says in err and not out


def test_answers_are_json_alone(tmp_path: Path) -> None:
    """What an imported module prints does not come between."""
    (tmp_path / "icnoisy.py").write_text("print('noise')\n__version__ = '1'\n")
    ran = subprocess.run(
        [sys.executable, str(FILE), "prove"],
        input=json.dumps({"proofs": {"imports": ["icnoisy", "icnowhere"]}}),
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and "noise" in ran.stderr
    assert [(p["proof"], p["ok"], p["evidence"]) for p in json.loads(ran.stdout)["proofs"]] == [
        ("import icnoisy", True, "1"),
        ("import icnowhere", False, "ModuleNotFoundError: No module named 'icnowhere'"),
    ]
