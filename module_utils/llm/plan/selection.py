"""Which stages and services a command line asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ansible.module_utils.llm.base.spelling import nearest
from ansible.module_utils.llm.declare.findings import Finding

STAGES = ("validate", "host", "images", "models", "services", "gateway", "observe", "verify")
# Molecule skips these in every run, whether or not anything carries them.
MOLECULE_TAGS = ("molecule-notest", "notest", "molecule-idempotence-notest")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Stages to run and services to touch, both in their declared order. `named`: services named by tags, any host's."""

    stages: tuple[str, ...]
    services: tuple[str, ...]
    named: tuple[str, ...] = ()


def select(
    run_tags: Iterable[str], skip_tags: Iterable[str], services: Iterable[str], known: Iterable[str] | None = None
) -> tuple[Selection, list[Finding]]:
    """Stages and services from --tags and --skip-tags.

    A tag is the name of a stage or of a service. No service tag means all services, no stage tag means all stages.
    services: those of this host; known: all that are declared (so that one tag can serve several hosts).
    """
    services = tuple(services)
    names = {*services, *(known or ())}
    wanted, unwanted = set(run_tags) - {"all", "always"}, set(skip_tags) - {"never", *MOLECULE_TAGS}
    found = [
        Finding(
            "unknown-tag",
            "error",
            "--tags",
            f"`{tag}` is no service and no stage",
            f"{_meant(tag, [*names, *STAGES])}Known here: {', '.join([*sorted(names), *STAGES])}",
        )
        for tag in sorted((wanted | unwanted) - names - set(STAGES))
    ]
    stages = [s for s in STAGES if s in wanted] or list(STAGES)
    chosen = [s for s in services if s in wanted] if wanted & names else list(services)
    selection = Selection(
        tuple(s for s in stages if s not in unwanted),
        tuple(s for s in chosen if s not in unwanted),
        tuple(sorted(wanted & names)),
    )
    return selection, found


def _meant(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f"Did you mean `{near}`? " if near else ""
