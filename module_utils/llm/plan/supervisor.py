"""What the supervisor of a host is to watch, from the declaration. Pure."""

from __future__ import annotations

from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.variables import LIVENESS
from ansible.module_utils.llm.plan import compose, placement
from ansible.module_utils.llm.plan.types import SupervisorPlan, WatchedService


def plan(declared: Declared) -> SupervisorPlan:
    """What role engine_supervisor is given. The image is one that an engine of the host runs in anyway."""
    running = placement.deployed(declared) if declared.settings.supervisor else ()
    images = [declared.services[name].image for name in running]
    first = next((i for i in declared.images if i in images), "")
    services: dict[str, WatchedService] = {}
    for name in running:
        service = declared.services[name]
        rules = {key: service.liveness.get(key, entry.default) for key, entry in LIVENESS.items()}
        services[name] = {
            "model": service.served_model_name,
            "rules": {**rules, "boot_timeout": service.boot_timeout},
        }
    return {
        "image": compose.image_ref(declared.images[first]) if first else "",
        "config": {
            "interval": declared.settings.supervisor_interval,
            "recoveries": declared.settings.supervisor_recoveries,
            "services": services,
        },
    }
