"""Another recipe is another image; the one before is still there."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_both_images_are_there(host: Host) -> None:
    refs = host.check_output("docker image ls --format '{{.Repository}}:{{.Tag}}' llm/glm").split()
    assert len(refs) == 2
    records = json.loads(host.file("/opt/llm/state/images.json").content_string)
    assert {records[r]["source"] for r in refs} == {"build"}
    settings = [
        host.check_output(f"docker image inspect --format '{{{{json .Config.Env}}}}' {records[r]['id']}") for r in refs
    ]
    assert sorted("GLM_RECIPE=second" in s for s in settings) == [False, True]
