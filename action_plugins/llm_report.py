"""Controller side of `llm_report`: puts what clients got into files, for people and for machines; starts nothing on any host."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# As in llm_plan.py.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.report import page, results

VERDICT, JUNIT, PAGE, RUNS = "verdict.json", "junit.xml", "report.html", "runs.json"


class ActionModule(ActionBase):
    """See library/llm_report.py for the documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `ok`, `verdict`, `proofs` and `page`, after the files are written."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(
            argument_spec={
                "services": {"type": "list", "elements": "str", "required": True},
                "results": {"type": "list", "elements": "dict", "required": True},
                "about": {"type": "dict", "default": {}},
                "machine": {"type": "dict", "default": {}},
                "folder": {"type": "path", "required": True},
            }
        )
        # Without Ansible's tagged types, of which JSON knows nothing.
        options = json.loads(json.dumps(options))
        host, folder, at = str(variables["inventory_hostname"]), Path(options["folder"]), time.time()
        verdict, noted = results.collect(options["services"], options["results"])
        runs, last = results.add_run(
            results.parse_history(files.read(folder / RUNS)), verdict, noted, options["about"], round(at, 1)
        )
        machine = options.get("machine", {})
        checks = [check for service in verdict["services"].values() for check in service["checks"]]
        result.update(
            changed=False,
            ok=verdict["ok"],
            verdict=results.document(verdict, machine),
            proofs=results.proofs(verdict),
            page=str(folder / PAGE),
        )
        if self._task.check_mode or not checks:
            return result
        texts = {
            VERDICT: json.dumps(result["verdict"], indent=2, ensure_ascii=False) + "\n",
            JUNIT: results.junit(verdict, host, at, machine),
            RUNS: results.history_text(runs, last),
            PAGE: page.render(results.page_data(host, runs, last, machine)),
        }
        for name, text in texts.items():
            try:
                files.write(folder / name, text)
            except OSError as error:
                message = f"llm_report_dir: cannot write {folder / name}: {error.strerror}. Choose another folder"
                raise AnsibleActionFail(message) from error
        return result
