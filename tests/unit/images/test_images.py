"""Dockerfiles made from build steps, what a base lacks of them, proofs, and images that nobody needs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.images import images

from tests import catalogs

BUILDS = [
    (name, source["build"])
    for name, image in catalogs.raw("demo")["images"].items()
    for source in image["sources"]
    if "build" in source
]


def test_pip_looks_into_the_wheelhouse_or_the_declared_index() -> None:
    build = {"base": "b", "pip": ["torch==2.13.0+cpu", "x>=1,<2"], "pip_index": "https://example.org/simple"}
    with_wheels = images.dockerfile(build, "debian:12", images.Lent(wheelhouse=True))
    assert (
        "PIP_FIND_LINKS=/wheelhouse" in with_wheels and "example.org" not in with_wheels and "secret" not in with_wheels
    )
    without = images.dockerfile(build, "debian:12", images.Lent(ca_bundle=True))
    assert "PIP_EXTRA_INDEX_URL=https://example.org/simple" in without and "type=secret,id=ca" in without
    assert "'x>=1,<2'" in without  # a bare > would redirect into a file


def test_files_come_after_what_pip_installs() -> None:
    build = next(b for _, b in BUILDS if b.get("pip_remove") and b.get("files"))
    text = images.dockerfile(build, "debian:12", images.Lent())
    assert text.index("pip install") < text.index("pip uninstall") < text.index("COPY --chmod=0755")


PATCH = {"name": "p", "target": "a.b", "lacks": "x", "after": "(", "insert": "x,"}
LACKING = images.Lacking(("transformers>=5",), ("torch==2.13.0", "transformers<5.20"), (PATCH,))


@pytest.mark.parametrize(("name", "build"), BUILDS)
@pytest.mark.parametrize("lack", [images.Lacking(), LACKING], ids=["complete", "lacking"])
def test_hadolint_is_content(name: str, build: dict[str, object], lack: images.Lacking, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint") or str(catalogs.ROOT / ".venv/bin/hadolint")
    path = tmp_path / "Dockerfile"
    lent = images.Lent(wheelhouse=True, ca_bundle=True, pip_mirror=True)
    path.write_text(images.dockerfile(build, "debian:bookworm-slim", lent, lack))
    # DL3008: packages follow the release of the base image, which is pinned.
    ran = subprocess.run([hadolint, "--ignore", "DL3008", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{name}: {ran.stdout}{ran.stderr}\n{path.read_text()}"


def requirement(**changes: Any) -> dict[str, Any]:
    return {
        "requirement": "transformers>=5",
        "package": "transformers",
        "installed": "5.19.0",
        "declared": "<5.20,>=5.16",
        "satisfied": True,
        "possible": True,
        **changes,
    }


def inspected(require: dict[str, Any], state: str = "there", reason: str = "") -> dict[str, Any]:
    patch = {"name": "p", "target": "/a/b.py", "state": state, "reason": reason}
    return {"engine": "vllm 1", "constraints": ["transformers<5.20,>=5.16"], "require": [require], "patches": [patch]}


BUILD: dict[str, Any] = {"base": "b", "require": ["transformers>=5"], "patches": [PATCH], "constraints": ["numpy<3"]}


def test_a_base_that_lacks_nothing_is_taken_as_it_is() -> None:
    found = inspected(requirement())
    lack = images.lacking(BUILD, found)
    assert (lack.install, lack.patches) == ((), ())
    assert images.adds_nothing(BUILD, lack)
    assert not images.adds_nothing({**BUILD, "packages": ["git"]}, lack)
    assert images.explain(found) == [
        "transformers>=5: base has 5.19.0, vllm 1 declares <5.20,>=5.16; left as it is",
        "patch p: its target has it, nothing to do (/a/b.py)",
    ]


def test_only_what_is_lacking_is_done_inside_the_ranges_that_the_engine_declares() -> None:
    lack = images.lacking(BUILD, inspected(requirement(installed="5.21.0", satisfied=False), "needed"))
    assert not images.adds_nothing(BUILD, lack)
    context = images.context(BUILD, "vllm:1", images.Lent(), lack, program="# the program")
    assert (
        "python3 -m pip install --progress-bar off --constraint /run/constraints.txt 'transformers>=5'"
        in context["Dockerfile"]
    )
    assert context["constraints.txt"] == "numpy<3\ntransformers<5.20,>=5.16\n"
    assert context["patch/image_check.py"] == "# the program"
    assert json.loads(context["patch/request.json"]) == {"patches": [PATCH]}


def test_constraints_hold_for_pip_as_well() -> None:
    build = {"base": "b", "pip": ["x"], "constraints": ["y<2"]}
    context = images.context(build, "debian:12", images.Lent())
    assert "/opt/venv/bin/pip install --progress-bar off --constraint /run/constraints.txt x" in context["Dockerfile"]
    assert context["constraints.txt"] == "y<2\n"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            inspected(requirement(requirement="transformers>=6", satisfied=False, possible=False)),
            "`require` asks for transformers>=6, and vllm 1 of the base declares transformers<5.20,>=5.16: no version",
        ),
        (
            inspected(requirement(), "unfit", "its anchor is gone"),
            "patch `p` does not fit this base: its anchor is gone.",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(found: Any, says: str) -> None:
    with pytest.raises(images.Unfit) as refused:
        images.lacking(BUILD, found)
    assert says in str(refused.value)


def test_a_mirror_is_named_in_no_file_that_stays(tmp_path: Path) -> None:
    text = images.dockerfile({"base": "b", "pip": ["x"]}, "debian:12", images.Lent(pip_mirror=True))
    assert "--mount=type=secret,id=pip" in text and "PIP_CONFIG_FILE=/run/secrets/pip.conf" in text
    document = images.build_file("x", "llm/x:candidate", "/ca.pem", str(tmp_path / "pip.conf"))
    assert document["services"]["image"]["build"]["secrets"] == ["ca", "pip"]
    assert document["secrets"]["pip"] == {"file": str(tmp_path / "pip.conf")}


def test_proofs_are_asked_for_where_they_are_declared() -> None:
    service = {"argv": ["/model"], "env": {}, "files": {"plugins/a.py": ""}}
    job = {"proofs": {"imports": ["vllm"]}, "services": {"one": service}}
    assert images.proof_request(job, ["x>=1"]) == {
        "require": ["x>=1"],
        "proofs": {"imports": ["vllm"]},
        "services": {"one": {"argv": ["/model"], "env": {}, "files": {"a.py": ""}}},
    }
    assert images.proof_request({"proofs": {}, "services": {}}) == {}
    assert images.proof_request({"proofs": {}}, ["x>=1"])["require"] == ["x>=1"]


@pytest.mark.parametrize(
    ("proofs", "record", "proven"),
    [
        ({}, None, True),
        ({"imports": ["x"]}, None, False),
        ({"imports": ["x"]}, {"id": "a", "proofs": [{"ok": True}]}, True),
        ({"imports": ["x"]}, {"id": "b", "proofs": [{"ok": True}]}, False),
        ({"imports": ["x"]}, {"id": "a", "proofs": []}, False),
    ],
)
def test_a_proof_belongs_to_the_image_it_was_held_in(proofs: Any, record: Any, proven: bool) -> None:
    assert images.is_proven("a", proofs, record) is proven


def test_what_docker_says_it_has_loaded() -> None:
    assert images.loaded("x\nLoaded image: a/b:1\nLoaded image ID: sha256:12\n") == ["a/b:1", "sha256:12"]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "disk of Docker's data is full"),
        ("tar: x: Cannot write: No space left on device", "disk of Docker's data is full"),
        ("dial tcp: no such host", "Add a source that this host can reach"),
    ],
)
def test_what_failed_says_what_to_do(failure: str, says: str) -> None:
    assert says in images.remedy(failure)
