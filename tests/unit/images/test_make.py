"""Module llm_image without Docker: a stub knows images and does what the docker command would."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llm_image
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.docker import api as docker_api

Run = Callable[..., dict[str, Any]]
REF = "llm/x:1"


class Docker:
    """Images by name, and the commands that were run. `refuses`: a word of commands that fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.images: dict[str, str] = {}
        self.ran: list[list[str]] = []
        self.refuses = self.down = ""
        self.proofs = [{"proof": "import x", "ok": True, "evidence": "x 1.0"}]
        self.records = tmp_path / "images.json"
        self.arguments: dict[str, Any] = {
            "name": "x",
            "ref": REF,
            "folder": str(tmp_path / "images"),
            "records": str(self.records),
            "sources": [{"pull": "mirror/x:1"}, {"pull": "origin/x:1"}],
        }
        monkeypatch.setattr(docker_api, "get", self.listed)
        monkeypatch.setattr(AnsibleModule, "run_command", lambda _, args, **__: self.command(list(args)))

    def listed(self, path: str) -> list[dict[str, Any]]:
        assert path == "/images/json"
        if self.down:
            raise docker_api.DockerUnreachable(self.down)
        return [{"Id": i, "RepoTags": [name], "RepoDigests": []} for name, i in self.images.items()]

    def command(self, args: list[str]) -> tuple[int, str, str]:
        log = Path(args[4]) if args[0] == "/bin/sh" else None
        argv = args[5:] if log else args
        self.ran.append(argv)
        if self.refuses and self.refuses in argv[-1]:
            if log:
                log.write_text("first\nno such image\n")
            return 1, "", ""
        self.carry_out(argv)
        return 0, json.dumps({"proofs": self.proofs}), ""

    def carry_out(self, argv: Sequence[str]) -> None:
        if argv[:2] == ["docker", "pull"]:
            self.images[argv[2]] = "sha256:" + "1" * 64
        elif argv[:2] == ["docker", "tag"]:
            self.images[argv[3]] = argv[2]
        elif argv[:3] == ["docker", "image", "rm"]:
            del self.images[argv[3]]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Docker:
    return Docker(monkeypatch, tmp_path)


def test_the_first_source_that_delivers_is_taken_once(docker: Docker, run_module: Run) -> None:
    docker.refuses = "mirror"
    made = run_module(llm_image, docker.arguments)
    assert made["changed"] and made["source"] == "pull" and made["id"] == docker.images[REF]
    assert made["tried"] == ["pull x: first\nno such image"]
    assert json.loads(docker.records.read_text())[REF]["names"] == ["origin/x:1"]
    docker.ran.clear()
    again = run_module(llm_image, docker.arguments)
    assert not again["changed"] and again["id"] == made["id"] and docker.ran == []


def test_no_source_that_delivers_is_said_with_every_reason(docker: Docker, run_module: Run) -> None:
    docker.refuses = "/x:1"
    refused = run_module(llm_image, docker.arguments)
    assert refused["failed"] and "llm_images.x: no source delivers llm/x:1.\n- pull x: first" in refused["msg"]
    assert docker.images == {} and not docker.records.exists()


def test_what_a_proof_refuses_gets_no_name_and_goes(docker: Docker, run_module: Run) -> None:
    programs = {"programs": {"image_check.py": ""}, "proofs": {"imports": ["x"]}}
    docker.proofs = [{"proof": "import x", "ok": False, "evidence": "no module x"}]
    refused = run_module(llm_image, {**docker.arguments, **programs})
    assert refused["failed"] and "no module x" in refused["msg"] and docker.images == {}
    docker.proofs = [{"proof": "import x", "ok": True, "evidence": "x 1.0"}]
    made = run_module(llm_image, {**docker.arguments, **programs})
    assert made["changed"] and made["proofs"] == docker.proofs and "x 1.0" in made["diff"]["after"]


def test_proofs_that_could_not_be_recorded_are_refused(docker: Docker, run_module: Run) -> None:
    refused = run_module(llm_image, {**docker.arguments, "records": None, "proofs": {"imports": ["x"]}})
    assert "llm_images.x: `proofs` need `records`" in refused["msg"] and docker.ran == []


def test_a_name_is_taken_away_with_what_was_recorded_of_it(docker: Docker, run_module: Run) -> None:
    run_module(llm_image, docker.arguments)
    absent = {**docker.arguments, "state": "absent"}
    assert run_module(llm_image, absent, check_mode=True)["changed"] and REF in docker.images
    assert run_module(llm_image, absent)["changed"]
    assert REF not in docker.images and json.loads(docker.records.read_text()) == {}
    assert not run_module(llm_image, absent)["changed"]


@pytest.mark.parametrize("down", ["", "nobody listens there"])
def test_a_check_runs_nothing_also_where_docker_is_not_there_yet(docker: Docker, run_module: Run, down: str) -> None:
    docker.down = down
    expected = run_module(llm_image, docker.arguments, check_mode=True)
    assert expected["changed"] and expected["diff"]["after"] == "llm/x:1 (by pull or pull)\n"
    absent = run_module(llm_image, {**docker.arguments, "state": "absent"}, check_mode=True)
    assert not absent["changed"] and docker.ran == []


def test_docker_that_does_not_answer_ends_a_run_with_its_reason(docker: Docker, run_module: Run) -> None:
    docker.down = "nobody listens there"
    assert run_module(llm_image, docker.arguments)["msg"] == "llm_images.x: nobody listens there"
