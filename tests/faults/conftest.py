"""Faults are injected into the demo of this machine, or into a host of their own with a stub of the engine."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import converged, docker_client, inventory, machine, playbook, restored, untouched
from tests.faults.stub.host import RealHost, StubHost

__all__ = ["converged", "docker_client", "inventory", "machine", "playbook", "restored", "untouched"]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHost]:
    """A host with a stub of the engine; what was deployed there is for each test to reset."""
    with StubHost(tmp_path_factory.mktemp("host"), "faults").up() as up:
        yield up


@pytest.fixture(scope="session")
def real_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """Another one, with the real engine. Its image is copied: for long tests alone."""
    with RealHost(tmp_path_factory.mktemp("real"), "real").up() as up:
        yield up
