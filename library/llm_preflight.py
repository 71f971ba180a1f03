#!/usr/bin/python
"""Ask an engine image whether it accepts what is to be run in it, before anything is stopped for that."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_preflight
short_description: Check services with the parser, the registries and the configuration loader of the image that is to run them
description:
  - Runs a checking program inside the image, without GPU or network, one container for all services of the image. It parses every
    command line with that engine's own parser, looks for environment variables that it does not know, resolves parsers and plugins,
    lets it read the model's configuration, loads the tokenizer, and renders the chat template.
  - What has passed is written down under a digest of all that went in, and not asked again.
options:
  image:
    description: Image reference, present on the host.
    type: str
    required: true
  image_id:
    description: Id of the image, part of what a record is kept under. Without it nothing is kept.
    type: str
    default: ""
  services:
    description:
      - Service to C(argv) (arguments after C(vllm serve)), C(env), C(files) (plugins, name to text) and C(model).
      - C(model) has C(folder) (on the host) and C(digest), or C(config), or nothing; see module_utils/llm/engine/preflight.py.
    type: dict
    required: true
  program:
    description: Text of the checking program.
    type: str
    required: true
  records:
    description: Folder on the host for records of what has passed. Without it nothing is kept.
    type: path
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Does the same, and keeps no record.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing that is declared; a record only spares the next run the question.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Check a command line
  llm_preflight:
    image: docker.io/vllm/vllm-openai:v0.33.0
    program: "{{ lookup('ansible.builtin.file', 'engine_check.py') }}"
    services:
      micro:
        argv: [/model, --max-model-len, "4096"]
        env: {}
        files: {}
        model: {folder: /srv/models/qwen3-1.7b, digest: 5d41402abc4b2a76}
"""

RETURN = r"""
services:
  description: Service to ok and findings.
  returned: always
  type: dict
asked:
  description: Services that were put to the image now; the others have passed before.
  returned: always
  type: list
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.engine import preflight
from ansible.module_utils.llm.images import images


def keep(folder: Path, names: dict[str, str], services: dict[str, Any], image: str) -> None:
    """Write down those that passed, and drop the oldest records. A disk that is full costs only the next run time."""
    with contextlib.suppress(OSError):
        for name, answer in services.items():
            if names[name] and answer["ok"]:
                text = preflight.record_text(names[name], name, image, answer["findings"])
                files.write(folder / preflight.record_name(names[name]), text)
        kept = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in kept[preflight.KEPT :]:
            path.unlink()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "image_id": {"type": "str", "default": ""},
            "services": {"type": "dict", "required": True},
            "program": {"type": "str", "required": True},
            "records": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    image, services = wanted["image"], wanted["services"]
    folder = Path(wanted["records"]) if wanted["records"] else None
    names = {name: preflight.key(wanted["program"], wanted["image_id"], service) for name, service in services.items()}
    found: dict[str, Any] = {}
    for name, digest in names.items():
        text = files.read(folder / preflight.record_name(digest)) if folder and digest else ""
        warnings = preflight.passed(text, digest)
        if warnings is not None:
            found[name] = {"ok": True, "findings": warnings}
    asked = [name for name in services if name not in found]
    if asked:
        Progress(wanted["progress_file"]).say("preflight", f"{', '.join(asked)} in {image}")
        question, mounts = preflight.request({name: services[name] for name in asked})
        argv = images.sandbox(image, ["-c", wanted["program"]], mounts)
        data = json.dumps(question)
        try:
            rc, out, err = module.run_command(argv, data=data, binary_data=True, handle_exceptions=False)
        except OSError as error:  # it ended before it had read the question
            remedy = f"Look at `docker run --rm --entrypoint python3 {image} --version`"
            module.fail_json(msg=f"the check inside {image} could not be started ({error}). {remedy}")
        try:
            answers = json.loads(out)
        except ValueError:
            last = "\n".join(err.strip().splitlines()[-8:])
            module.fail_json(msg=f"the check inside {image} ended with {rc} and no answer: {last}")
        found.update(answers)
        if folder and not module.check_mode:
            keep(folder, names, answers, image)
    if problems := preflight.texts(found, "error"):
        lines = "\n".join(f"  - {p}" for p in problems)
        module.fail_json(
            msg=f"{image} refuses the declaration; nothing was stopped.\n{lines}", services=found, asked=asked
        )
    for warning in preflight.texts(found, "warn"):
        module.warn(warning)
    module.exit_json(changed=False, services=found, asked=asked)


if __name__ == "__main__":
    main()
