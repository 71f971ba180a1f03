"""The old image is gone, with its record; all that is needed or not ours is there."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_one_image_is_left(host: Host) -> None:
    refs = host.check_output("docker image ls --format '{{.Repository}}:{{.Tag}}' llm/glm").split()
    assert len(refs) == 1
    env = host.check_output(f"docker image inspect --format '{{{{json .Config.Env}}}}' {refs[0]}")
    assert "GLM_RECIPE=second" in env
    records = json.loads(host.file("/opt/llm/state/images.json").content_string)
    assert [r for r in records if r.startswith("llm/glm:")] == refs


def test_bases_the_gateway_and_foreign_images_stay(host: Host) -> None:
    names = host.check_output("docker image ls --format '{{.Repository}}'").split()
    assert {"llm/stub-engine", "llm/debian-bookworm", "llm/haproxy", "somebody/own"} <= {*names}
