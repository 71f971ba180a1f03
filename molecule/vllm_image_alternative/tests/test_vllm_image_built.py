"""The image has what was lacking, and only that; nothing that was lent to the build stayed in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

NAME = "'{{.Repository}}:{{.Tag}}'"


@pytest.fixture
def ref(host: Host) -> str:
    """Name of the image."""
    found = host.check_output(f"docker image ls --format {NAME} llm/glm").split()
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def record(host: Host, ref: str) -> dict[str, Any]:
    """What the role wrote down of it."""
    found: dict[str, Any] = json.loads(host.file("/opt/llm/state/images.json").content_string)[ref]
    return found


def inside(host: Host, ref: str, code: str) -> str:
    return str(host.check_output(f"docker run --rm --network none --entrypoint python3 {ref} -c '{code}'"))


def test_the_library_is_the_newest_that_the_engine_takes(host: Host, ref: str, record: dict[str, Any]) -> None:
    """5.17.0 was there and 5.21.0 could be had."""
    assert inside(host, ref, "import transformers; print(transformers.__version__)") == "5.19.0"
    declares = "vllm-stub 0.32.0 declares <5.20.0,>=5.16.1"
    assert f"transformers>=5.18: base has 5.17.0, {declares}; to be installed" in record["found"]


def test_the_patch_is_in(host: Host, ref: str, record: dict[str, Any]) -> None:
    where = "vllm.transformers_utils.model_arch_config_convertor"
    code = f'import {where} as m; print(open(m.__file__).read().count("glm4_moe_lite"))'
    assert inside(host, ref, code) == "1"
    assert any(line.startswith("patch mla-for-glm4-moe-lite: its target lacks it, applied") for line in record["found"])


def test_every_proof_held_in_this_image(host: Host, ref: str, record: dict[str, Any]) -> None:
    assert record["id"] == host.check_output(f"docker image inspect --format '{{{{.Id}}}}' {ref}")
    assert all(p["ok"] for p in record["proofs"])
    assert [p["proof"] for p in record["proofs"]] == [
        "requirement transformers>=5.18",
        "import vllm",
        "import transformers",
        "architecture Glm4MoeLiteForCausalLM",
        "MLA for glm4_moe_lite",
        "tool parser glm47",
        "reasoning parser glm45",
        "flags of glm",
    ]


def test_what_was_lent_did_not_stay(host: Host, ref: str) -> None:
    history = host.check_output(f"docker history --no-trunc {ref}")
    assert "s3cret" not in history and ":8443" not in history
    # Debian's python3-venv brings wheels of its own.
    names = "-name pip.conf -o -name ca.pem -o -name *.whl -o -path /run/patch/*"
    left = f"find / -xdev -not -path /usr/share/python-wheels/* ( {names} ) -size +0"
    assert inside(host, ref, f'import subprocess; subprocess.run("{left}".split())') == ""
    assert host.run("grep -r s3cret /opt/llm").rc == 1


def test_no_unproven_image_is_left(host: Host) -> None:
    names = host.check_output(f"docker image ls --format {NAME}").split()
    assert not [n for n in names if n.endswith(":candidate") or "<none>" in n]
