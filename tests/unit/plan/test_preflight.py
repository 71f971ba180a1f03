"""What is put to an image, and what has passed before. A stub stands for docker: the program's answers are made up here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llm_preflight
import pytest
from ansible.module_utils.llm.engine import preflight
from ansible.module_utils.llm.plan import changes, compose, placement
from ansible.module_utils.llm.plan import preflight as preflight_plan
from ansible.module_utils.llm.plan.types import PreflightJob

from tests import catalogs, hosts

Module = Callable[..., dict[str, Any]]
SERVICE: dict[str, Any] = {
    "argv": ["/model", "--port", "8000"],
    "env": {"A": "1"},
    "files": {"p.py": "x"},
    "model": {"folder": "/srv/m", "digest": "d1"},
}
WARNING = {
    "id": "flag-abbreviated",
    "severity": "warn",
    "key": "args.x",
    "message": "is short",
    "remedy": "Write it out",
}


class TestKey:
    @pytest.mark.parametrize(
        "change",
        [
            {"argv": ["/model", "--port", "8001"]},
            {"env": {"A": "2"}},
            {"files": {"p.py": "y"}},
            {"model": {"folder": "/srv/m", "digest": "d2"}},
            {"model": {"config": {}}},
        ],
    )
    def test_covers_all_that_goes_in(self, change: dict[str, Any]) -> None:
        assert preflight.key("p", "i", SERVICE) != preflight.key("p", "i", {**SERVICE, **change})

    def test_covers_program_and_image(self) -> None:
        assert len({preflight.key(p, i, SERVICE) for p in "ab" for i in "cd"}) == 4

    def test_a_folder_may_move(self) -> None:
        assert preflight.key("p", "i", SERVICE) == preflight.key(
            "p", "i", {**SERVICE, "model": {"folder": "/elsewhere", "digest": "d1"}}
        )

    def test_what_has_no_identity_has_none(self) -> None:
        assert preflight.key("p", "", SERVICE) == ""
        assert preflight.key("p", "i", {**SERVICE, "model": {"folder": "/srv/m", "digest": ""}}) == ""


class TestRecord:
    def test_comes_back(self) -> None:
        assert preflight.passed(preflight.record_text("k", "micro", "img", [WARNING]), "k") == [WARNING]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"format": 1, "key": "k"}',
            '{"format": 1, "key": "k", "findings": 3}',
            '{"format": 1, "key": "k", "findings": [{"id": "x"}]}',
            '{"format": 1, "key": "other", "findings": []}',
            '{"format": 0, "key": "k", "findings": []}',
            preflight.record_text("k", "micro", "img", [])[:-9],
        ],
    )
    def test_a_damaged_one_counts_as_none(self, text: str) -> None:
        assert preflight.passed(text, "k") is None


class TestJobs:
    DECLARED = catalogs.declared("rtx4090x3")

    def jobs(self, facts: Any, **more: Any) -> list[PreflightJob]:
        seen = hosts.facts(**facts)
        rendered = changes.releases(self.DECLARED, seen, {})
        services = placement.deployed(self.DECLARED)
        return preflight_plan.jobs(self.DECLARED, seen, services, rendered, {}, **more)

    def test_one_container_an_image(self) -> None:
        found = {job["image"]: set(job["services"]) for job in self.jobs({})}
        assert sorted(len(s) for s in found.values()) == sorted(
            sum(
                compose.image_ref(self.DECLARED.images[self.DECLARED.services[s].image]) == ref
                for s in placement.deployed(self.DECLARED)
            )
            for ref in found
        )
        assert set().union(*found.values()) == set(placement.deployed(self.DECLARED))

    def test_a_current_release_is_not_asked_again(self) -> None:
        facts = hosts.facts()
        current = {s: hosts.released(current=r.hash) for s, r in changes.releases(self.DECLARED, facts, {}).items()}
        assert self.jobs({"releases": current}) == []

    def test_check_mode_asks_only_images_that_are_there(self) -> None:
        assert self.jobs({}, predict=True) == []

    def test_a_model_on_the_host_is_mounted_and_another_known_by_its_configuration(self) -> None:
        service = self.DECLARED.services[placement.deployed(self.DECLARED)[0]]
        rendered = changes.releases(self.DECLARED, None, {})
        facts = hosts.facts(models={service.model: hosts.model(digest="d")})
        (job,) = preflight_plan.jobs(self.DECLARED, facts, [service.name], rendered, {service.model: {"a": 1}})
        folder = compose.model_dir(self.DECLARED.settings, self.DECLARED.models[service.model])
        assert job["services"][service.name]["model"] == {"folder": folder, "digest": "d"}
        (job,) = preflight_plan.jobs(self.DECLARED, hosts.facts(), [service.name], rendered, {service.model: {"a": 1}})
        assert job["services"][service.name]["model"] == {"config": {"a": 1}}


def test_each_model_is_mounted_for_its_service() -> None:
    question, mounts = preflight.request({"a": SERVICE, "b": {**SERVICE, "model": {"config": {"x": 1}}}})
    assert mounts == {"/models/a": "/srv/m"}
    assert question["services"]["a"]["model"] == {"folder": "/models/a"}
    assert question["services"]["b"]["model"] == {"config": {"x": 1}}


@pytest.fixture
def stub_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give a function that says what docker's stub answers, and one list that grows with every start of it."""
    log, answer = tmp_path / "started", tmp_path / "answer"
    stub = tmp_path / "bin/docker"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\necho x >>{log}\ncat >/dev/null\ncat {answer}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:/usr/bin:/bin")

    def started(found: dict[str, Any] | None = None) -> list[str]:
        if found is not None:
            answer.write_text(json.dumps(found))
        return log.read_text().split() if log.exists() else []

    return started


def ok(*findings: dict[str, str]) -> dict[str, Any]:
    return {"ok": all(f["severity"] != "error" for f in findings), "findings": list(findings)}


class TestModule:
    @pytest.fixture
    def ask(self, run_module: Module, tmp_path: Path) -> Callable[..., dict[str, Any]]:
        def run(services: dict[str, Any], *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
            arguments = {"image": "img", "image_id": "sha256:1", "program": "p", "records": str(tmp_path / "records")}
            return run_module(llm_preflight, {**arguments, "services": services, **more}, check_mode=check_mode)

        return run

    def test_what_passed_starts_no_container_again(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]]
    ) -> None:
        stub_docker({"a": ok(WARNING)})
        first, second = ask({"a": SERVICE}), ask({"a": SERVICE})
        assert len(stub_docker()) == 1
        assert (first["asked"], second["asked"]) == (["a"], [])
        assert first["services"] == second["services"] == {"a": ok(WARNING)}

    def test_a_damaged_record_counts_as_none(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        stub_docker({"a": ok()})
        ask({"a": SERVICE})
        (record,) = (tmp_path / "records").iterdir()
        record.write_text(record.read_text()[:40])
        assert ask({"a": SERVICE})["asked"] == ["a"]
        assert ask({"a": SERVICE})["asked"] == []

    def test_only_what_is_new_is_asked(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]]
    ) -> None:
        stub_docker({"a": ok()})
        ask({"a": SERVICE})
        stub_docker({"b": ok()})
        found = ask({"a": SERVICE, "b": {**SERVICE, "env": {}}})
        assert found["asked"] == ["b"]
        assert set(found["services"]) == {"a", "b"}

    def test_a_refusal_names_place_and_remedy_and_is_asked_again(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]]
    ) -> None:
        stub_docker({"a": ok({**WARNING, "severity": "error"}), "b": ok()})
        services = {"a": SERVICE, "b": {**SERVICE, "env": {}}}
        for _ in range(2):
            found = ask(services)
            assert found["failed"]
            assert "llm_services.a.args.x: is short. Write it out" in found["msg"]
            assert "nothing was stopped" in found["msg"]
        assert found["asked"] == ["a"]  # the other one had passed

    @pytest.mark.parametrize("change", [{"image_id": ""}, {"check_mode": True}])
    def test_what_may_not_be_kept_is_not(
        self,
        ask: Callable[..., dict[str, Any]],
        stub_docker: Callable[..., list[str]],
        tmp_path: Path,
        change: dict[str, Any],
    ) -> None:
        stub_docker({"a": ok()})
        ask({"a": SERVICE}, **change)
        assert not (tmp_path / "records").exists()

    def test_old_records_go(
        self,
        ask: Callable[..., dict[str, Any]],
        stub_docker: Callable[..., list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(preflight, "KEPT", 2)
        for number in range(4):
            stub_docker({"a": ok()})
            ask({"a": {**SERVICE, "env": {"N": str(number)}}})
        assert len(list((tmp_path / "records").iterdir())) == 2

    def test_no_answer_is_an_error_with_the_end_of_what_was_said(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        stub_docker({})
        (tmp_path / "bin/docker").write_text("#!/bin/sh\ncat >/dev/null\necho no such image >&2\nexit 125\n")
        found = ask({"a": SERVICE})
        assert found["failed"]
        assert "ended with 125" in found["msg"] and "no such image" in found["msg"]

    def test_a_docker_that_ends_at_once_is_an_error_and_no_traceback(
        self, ask: Callable[..., dict[str, Any]], stub_docker: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        stub_docker({})
        (tmp_path / "bin/docker").write_text("#!/bin/sh\nexec <&-\nexit 125\n")
        found = ask({"a": {**SERVICE, "env": {"LARGE": "x" * 300_000}}})  # more than a pipe holds
        assert found["failed"]
        assert "the check inside img" in found["msg"]
