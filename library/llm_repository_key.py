#!/usr/bin/python
"""A package repository's key, trusted only if it is the one that was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_repository_key
short_description: Fetch the key of a package repository and check its fingerprint
description:
  - Fetched every time, since a key's subkeys expire and are renewed under the same fingerprint.
  - What was fetched is written only if every key in it has the declared fingerprint. No gpg is needed on the host.
options:
  url:
    description: Where the ASCII-armoured key is.
    type: str
    required: true
  fingerprint:
    description: Fingerprint of the primary key, 40 hex digits; spaces don't count.
    type: str
    required: true
  path:
    description: Where it goes, with the ending C(.asc).
    type: path
    required: true
attributes:
  check_mode:
    description: Says whether another key is there; fetches nothing.
    support: full
  diff_mode:
    description: Shows the fingerprint.
    support: full
  idempotent:
    description: The same key is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Trust the repository
  llm_repository_key:
    url: https://nvidia.github.io/libnvidia-container/gpgkey
    fingerprint: C95B 321B 61E8 8C18 09C4  F759 DDCA E044 F796 ECB0
    path: /etc/apt/keyrings/nvidia-container-toolkit.asc
"""

RETURN = r"""
fingerprint:
  description: The fingerprint without spaces.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.docker import openpgp
from ansible.module_utils.urls import fetch_url


def fingerprints(text: str) -> list[str]:
    """Those of a key file, [] for no key."""
    try:
        return openpgp.fingerprints(text)
    except ValueError:
        return []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "fingerprint": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    url, path = module.params["url"], Path(module.params["path"])
    wanted = module.params["fingerprint"].replace(" ", "").upper()
    have = fingerprints(files.read(path))
    before = "".join(f"{f}\n" for f in have)
    header = {"before_header": str(path), "after_header": str(path)}
    result = {
        "fingerprint": wanted,
        "changed": set(have) != {wanted},
        "diff": [{**header, "before": before, "after": f"{wanted}\n"}],
    }
    if module.check_mode:
        module.exit_json(**result)
    answer, info = fetch_url(module, url, timeout=30)
    if answer is None or info["status"] not in (200, None):
        module.fail_json(
            msg=f"the key could not be fetched from {url}: {info['msg']}. Is the address right, and reached from here?"
        )
    text = answer.read().decode("utf-8", "replace")
    try:
        found = openpgp.fingerprints(text)
    except ValueError as error:
        module.fail_json(msg=f"{url} gives no key ({error}). Is the address right?")
    if set(found) != {wanted}:
        module.fail_json(
            msg=f"the key at {url} has the fingerprint {', '.join(found)}, declared is {wanted}; it is not trusted. Compare "
            "with what its owner publishes, and correct the one that is wrong"
        )
    try:
        result["changed"] = files.write(path, text)
    except OSError as error:
        module.fail_json(msg=files.unwritable(error, path))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
