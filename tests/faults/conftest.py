"""Faults are injected into the demo of this machine: the fixtures are those of the tests that deploy for real."""

from tests.e2e.conftest import converged, docker_client, inventory, machine, playbook, restored, untouched

__all__ = ["converged", "docker_client", "inventory", "machine", "playbook", "restored", "untouched"]
