"""Make `ansible.module_utils.llm` importable outside Ansible, as its loader would."""

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
