"""What role docker_engine asks the pure functions of module_utils/llm/docker/packages.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

# Ansible serves module_utils/ to modules only; filters run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.docker import packages as docker_packages


def versions(listing: str, pins: Mapping[str, str]) -> dict[str, str]:
    """See packages.choose."""
    try:
        return docker_packages.choose(listing, pins)
    except ValueError as error:
        raise AnsibleFilterError(f"docker_engine_*version: {error}") from error


class FilterModule:
    """The filters, by the names under which roles use them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "llm_docker_work": docker_packages.work,
            "llm_docker_versions": versions,
            "llm_docker_repository": docker_packages.repository,
        }
