"""Ends a run for which nobody chose an inventory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ansible.constants
import ansible.context
import ansible.module_utils
from ansible.plugins.callback import CallbackBase

# Ansible serves module_utils/ to modules only; callbacks run in its own process and need the folder on the path.
PROJECT = Path(__file__).resolve().parent.parent
_LIBRARY = str(PROJECT / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.declare import inventory

DOCUMENTATION = r"""
name: llm_inventory
type: aggregate
short_description: Ends a run for which nobody chose an inventory, or one without hosts
description:
  - Without C(-i), C(ANSIBLE_INVENTORY) and an entry in C(ansible.cfg) Ansible takes C(/etc/ansible/hosts). Where that is not, it
    skips every play and calls it a success; where it is, hosts would be changed that nobody named.
  - The run ends with one line that names the ways to choose, and exit code 5. C(--list-hosts) and C(--syntax-check) start nothing
    and are let be.
  - It is no task, because there may be no host that could carry out one, and an unchanged host is to pay for none.
"""

EXIT_CODE = 5
"""That of Ansible for a command line that lacks something."""


class CallbackModule(CallbackBase):
    """Looks once, before the first play."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llm_inventory"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """End the run, or say nothing."""
        default, origin = ansible.constants.config.get_config_value_and_origin("DEFAULT_HOST_LIST")
        # Ansible puts its default among the options, so that -i /etc/ansible/hosts is seen on the command line alone.
        named = any(path in argument for path in default for argument in sys.argv[1:])
        sources = [*ansible.context.CLIARGS["inventory"]]
        hosts = playbook.get_plays()[0].get_variable_manager().get_vars()["groups"]["all"]
        here = sorted(p for p in (PROJECT / "inventory").iterdir() if p.is_dir())
        chosen = origin != "default" or sources != [*default] or named
        if why := inventory.unchosen(sources, chosen, hosts, [_short(p) for p in here]):
            self._display.error(why, wrap_text=False)
            raise SystemExit(EXIT_CODE)


def _short(path: Path) -> str:
    """A path as it can be written here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
