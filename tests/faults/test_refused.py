"""What is refused or warned of before a host is asked."""

from __future__ import annotations

import json

import pytest

from tests.e2e.demo import Playbook

pytestmark = pytest.mark.e2e


@pytest.mark.fault(34, "64 MiB for two ranks are warned of before a host is asked")
def test_shared_memory_that_is_too_small_is_warned_of(playbook: Playbook) -> None:
    custom = json.dumps({"llm_services_custom": {"medium-glm": {"limits": {"shm_size": "64m"}}}})
    run = playbook("-i", "inventory/rtx4090x3", "playbooks/validate.yml", "-e", custom).passed()
    run.says("medium-glm", "leaves 2 processes 0.06 GiB of shared memory", "shm-small")
