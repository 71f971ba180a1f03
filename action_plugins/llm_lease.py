"""Controller side of `llm_lease`: says who the run is, and spares the host a module when it has what it asks for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# Ansible serves module_utils/ to modules only; action plugins run in its own process and need the folder on the path.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import lease


class ActionModule(ActionBase):
    """See library/llm_lease.py for the documentation."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take or give back the host, through the module."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        plan, seen = variables.get("llm_plan"), variables.get("ansible_facts", {})
        if self._task.check_mode or not plan:
            return dict(result, skipped=True, changed=False)
        # Each task runs in a process of its own; its parent is the run.
        claim = lease.claimant(os.getppid())
        state = self._task.args.get("state", "acquired")
        services = list(self._task.args.get("services") or lease.services(plan.get("work", {})))
        own = seen.get("llm_lease") or {}
        held = own.get("run") == claim["run"]
        fresh = held and own["services"] == services and time.time() < own["renew_at"]
        if fresh if state == "acquired" else not held:
            return dict(result, skipped=True, changed=False)
        found = seen.get("llm_host", {}).get("lease")
        # A stage on its own, without the one that reads the host: nothing that was read can have become outdated.
        if found is None:
            return dict(result, skipped=True, changed=False)
        arguments = {
            "state": state,
            "services": services,
            "root": plan["settings"]["root"],
            "claim": claim,
            "generation": found["generation"],
            "dead": found["run"] if lease.is_dead(found) else "",
        }
        result.update(self._execute_module("llm_lease", arguments, task_vars=variables))
        if result.get("failed"):
            result["msg"] = f"{variables['inventory_hostname']}: {result.get('msg', 'no message')}"
        else:
            result["ansible_facts"]["llm_lease"]["renew_at"] = time.time() + lease.VALID / 3
        return result
