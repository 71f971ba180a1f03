"""What role gateway asks the pure functions of module_utils/llm/gateway/routes.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible serves module_utils/ to modules only; filters run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import addresses
from ansible.module_utils.llm.gateway import routes


class FilterModule:
    """The filters, by the names under which roles use them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "llm_in_url": addresses.in_url,
            "llm_listing": routes.listing,
            "llm_pools": routes.pools,
            "llm_reached": addresses.reached,
            "llm_returns": routes.returns,
        }
