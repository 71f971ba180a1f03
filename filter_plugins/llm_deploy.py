"""What role vllm_service and its playbooks ask the pure functions of module_utils/llm/plan/deploy.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible serves module_utils/ to modules only; filters run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.plan import deploy


class FilterModule:
    """The filters, by the names under which roles use them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "llm_closed": deploy.closed,
            "llm_displaced": deploy.displaced,
            "llm_doors": deploy.doors,
            "llm_expected_back": deploy.expected_back,
            "llm_predecessor": deploy.predecessor,
            "llm_serving": deploy.serving,
        }
