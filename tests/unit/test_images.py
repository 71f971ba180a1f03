"""Dockerfiles made from build steps."""

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.llm import images

from tests import catalogs

BUILDS = [
    (name, source["build"])
    for name, image in catalogs.raw("demo")["images"].items()
    for source in image["sources"]
    if "build" in source
]


def test_pip_looks_into_the_wheelhouse_or_the_declared_index() -> None:
    build = {"base": "b", "pip": ["torch==2.13.0+cpu", "x>=1,<2"], "pip_index": "https://example.org/simple"}
    with_wheels = images.dockerfile(build, "debian:12", wheelhouse=True, ca_bundle=False)
    assert (
        "PIP_FIND_LINKS=/wheelhouse" in with_wheels and "example.org" not in with_wheels and "secret" not in with_wheels
    )
    without = images.dockerfile(build, "debian:12", wheelhouse=False, ca_bundle=True)
    assert "PIP_EXTRA_INDEX_URL=https://example.org/simple" in without and "type=secret,id=ca" in without
    assert "'x>=1,<2'" in without  # a bare > would redirect into a file


def test_files_come_after_what_pip_installs() -> None:
    name, build = BUILDS[0]
    text = images.dockerfile(build, "debian:12", wheelhouse=False, ca_bundle=False)
    assert text.index("pip install") < text.index("pip uninstall") < text.index("COPY --chmod=0755"), name


@pytest.mark.parametrize(("name", "build"), BUILDS)
def test_hadolint_is_content(name: str, build: dict[str, object], tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint") or str(catalogs.ROOT / ".venv/bin/hadolint")
    path = tmp_path / "Dockerfile"
    path.write_text(images.dockerfile(build, "debian:bookworm-slim", wheelhouse=True, ca_bundle=True))
    # DL3008: packages follow the release of the base image, which is pinned.
    ran = subprocess.run([hadolint, "--ignore", "DL3008", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{name}: {ran.stdout}{ran.stderr}\n{path.read_text()}"
