"""The alert rules, by promtool: series as exporters give them stand in for GPUs that fail and certificates that end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.demo import CHECKOUT

RULES = CHECKOUT / "roles/engine_supervisor/files/alerts.yml"


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Debian's promtool, without Prometheus being installed; it is kept for the next time."""
    place = CHECKOUT / ".cache/prometheus"
    tool = place / "usr/bin/promtool"
    if not tool.exists():
        place.mkdir(parents=True, exist_ok=True)
        get = ["apt-get", "-q", "download", "prometheus"]
        if subprocess.run(get, cwd=place, check=False, capture_output=True).returncode:
            subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
            subprocess.run(get, cwd=place, check=True, capture_output=True)
        package = next(place.glob("prometheus_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
        package.unlink()
    return tool


def test_the_rules_are_well_formed(promtool: Path) -> None:
    subprocess.run([promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES], check=True)


@pytest.mark.fault(31, "a rule fires two weeks before", by="simulated")
@pytest.mark.fault(44, "a rule fires on the exporter's metric, and names GPU and code", by="simulated")
def test_alerts_fire_when_they_have_to_and_not_before(promtool: Path) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", Path(__file__).with_name("alerts.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
