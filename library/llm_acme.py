#!/usr/bin/python
"""The gateway's certificate by ACME: has its client ask for one, where there is none as it is declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_acme
short_description: Have the gateway's client get a certificate by ACME
description:
  - Where there is no certificate as it is declared, waits until the client has asked for one and HAProxy has it, or fails with what
    the server says; the gateway keeps what it has.
  - The client is a container that M(llm_program) runs.
  - Renewals are the client's own. Of one that fails this module says nothing (the plan does).
options:
  folder:
    description: Folder of the gateway on the host.
    type: path
    required: true
  server:
    description: Address of the ACME server's directory.
    type: str
    required: true
  email:
    description: In whose name it is asked.
    type: str
    required: true
  names:
    description: What the certificate is for.
    type: list
    elements: str
    required: true
  started:
    description: Whether the client was started just now, and asks by itself; else it is told to ask at once.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be asked for. Asks no server.
    support: full
  diff_mode:
    description: Shows the request.
    support: full
  idempotent:
    description: Asks for nothing where the certificate is as declared.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Have a certificate
  llm_acme:
    folder: /opt/llm/gateway
    server: https://acme-v02.api.letsencrypt.org/directory
    email: ops@example.org
    names: [api.llm.example.org]
"""

RETURN = r"""
action:
  description: none or asked.
  returned: always
  type: str
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.declare.facts import AcmeConfig
from ansible.module_utils.llm.gateway import acme, certificates

LED_WITHIN = 120.0  # beside what lego gets: until the client looks, and HAProxy leads the server's questions to it


def lacks(folder: Path, config: AcmeConfig) -> str:
    """Why there is no certificate as it is declared, "" when there is."""
    data = folder / acme.DATA
    issued = acme.issued(files.read(data / acme.ISSUED))
    return acme.missing(config, issued, certificates.read(data / acme.certificate_files(config)[0]))


def request(config: AcmeConfig, why: str) -> dict[str, str]:
    """An entry of Ansible's diff: what a server would be asked for."""
    return {
        "before_header": f"certificate: {why}",
        "after_header": f"certificate, asked for at {config['server']} in the name of {config['email']}",
        "before": "",
        "after": "".join(f"{name}\n" for name in config["names"]),
    }


def await_attempt(module: AnsibleModule, folder: Path, within: float) -> acme.Attempt:
    """What came of the client's next attempt."""
    place = folder / acme.DATA / acme.ATTEMPT
    end = time.monotonic() + within
    while True:
        attempt = acme.attempt(files.read(place))
        if attempt and not attempt.get("asking"):
            return attempt
        if time.monotonic() > end:
            _, out, err = module.run_command(["docker", "logs", "--tail", "20", names.ACME])
            module.fail_json(msg=f"the ACME client does not answer. Its last words: {out}{err}")
        time.sleep(0.2)


def act(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and have asked for what is missing."""
    folder = Path(module.params["folder"])
    given = module.params
    config: AcmeConfig = {"server": given["server"], "email": given["email"], "names": given["names"]}
    why = lacks(folder, config)
    if not why:
        return {"changed": False, "action": "none"}
    asked = {"changed": True, "action": "asked", "diff": [request(config, why)]}
    if module.check_mode:
        return asked
    if not module.params["started"]:  # without a record of the last attempt the client begins at once
        (folder / acme.DATA / acme.ATTEMPT).unlink(missing_ok=True)
    attempt = await_attempt(module, folder, LED_WITHIN + acme.patience(config))
    if why := lacks(folder, config):
        module.fail_json(
            msg=f"llm_gateway.acme: no certificate for {', '.join(config['names'])} from {config['server']}: "
            f"{attempt.get('error') or why}. The gateway serves with the certificate that it had; "
            f"the client tries again at {certificates.moment(attempt.get('next', 0))}, site.yml at once"
        )
    return asked


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "server": {"type": "str", "required": True},
            "email": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "started": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}; run as root, and check the disk")


if __name__ == "__main__":
    main()
