"""What roles and playbooks ask the pure functions of module_utils/llm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

# Ansible serves module_utils/ to modules only; filters run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import addresses, dpkg, files
from ansible.module_utils.llm.declare.facts import AcmeRequest, Content
from ansible.module_utils.llm.docker import packages
from ansible.module_utils.llm.gateway import routes
from ansible.module_utils.llm.gpu import nvidia
from ansible.module_utils.llm.plan import deploy, program
from ansible.module_utils.llm.plan import gateway as gateway_plan


def docker_versions(listing: str, pins: Mapping[str, str]) -> dict[str, str]:
    """See packages.choose."""
    try:
        return packages.choose(listing, pins)
    except ValueError as error:
        raise AnsibleFilterError(f"docker_engine_*version: {error}") from error


def deb_versions(files: Iterable[str]) -> dict[str, str]:
    """Package to version, of the names of .deb files."""
    try:
        return dict(dpkg.package_of(f) for f in files)
    except ValueError as error:
        raise AnsibleFilterError(f"nvidia_toolkit_packages: {error}") from error


def driver_packages(distribution: str, version: str, kind: str) -> list[str]:
    """See nvidia.driver_packages."""
    try:
        return nvidia.driver_packages(distribution, version, kind)
    except ValueError as error:
        raise AnsibleFilterError(f"{error}: name them in nvidia_toolkit_driver_packages") from error


def packed(folder: str) -> dict[str, str]:
    """A program of ours with all that it imports; see program.packed. folder: of its own files, on the controller."""
    place = Path(folder)
    own = {path.name: files.read(path) for path in sorted(place.glob("*.py"))}
    if not own:
        raise AnsibleFilterError(f"{folder}: there is no program; name a folder of a role's files that has one")

    def library(module: str) -> str | None:
        path = Path(_LIBRARY, "llm", f"{module}.py")
        return files.read(path) if path.is_file() else None

    return program.packed(place.name, own, library)


def program_wanted(folder: str, config: Content, compose: str, found: program.Found) -> program.Wanted:
    """See program.wanted; folder: see `packed`."""
    return program.wanted(packed(folder), config, compose, found)


def acme_wanted(folder: str, request: AcmeRequest, compose: str, found: gateway_plan.Found) -> program.Wanted:
    """See gateway_plan.acme_wanted; folder: see `packed`."""
    return gateway_plan.acme_wanted(packed(folder), request, compose, found)


class FilterModule:
    """The filters, by the names under which roles use them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "llm_acme_wanted": acme_wanted,
            "llm_closed": deploy.closed,
            "llm_deb_versions": deb_versions,
            "llm_displaced": deploy.displaced,
            "llm_docker_repository": packages.repository,
            "llm_docker_versions": docker_versions,
            "llm_docker_work": packages.work,
            "llm_driver_packages": driver_packages,
            "llm_expected_back": deploy.expected_back,
            "llm_gateway_values": gateway_plan.values,
            "llm_gateway_wanted": gateway_plan.wanted,
            "llm_gpu_work": nvidia.work,
            "llm_in_url": addresses.in_url,
            "llm_listing": routes.listing,
            "llm_predecessor": deploy.predecessor,
            "llm_program_wanted": program_wanted,
            "llm_reached": addresses.reached,
            "llm_replacement": deploy.replacement,
            "llm_routes": deploy.routes,
            "llm_serving": deploy.serving,
        }
