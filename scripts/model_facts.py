"""Print what the plan needs to know of a model on a hub: its config.json and its tensors, without the weights.

Usage: scripts/model_facts.py OWNER/NAME [REVISION]. HF_ENDPOINT names another hub, HF_TOKEN opens gated models.
"""

import json
import os
import sys
from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))

from ansible.module_utils.llm import artifacts  # noqa: E402 - after the path


def main(arguments: list[str]) -> int:
    """Print the JSON of files/configs/<model>.json; 1 with a reason when it cannot be read."""
    if not 1 <= len(arguments) <= 2 or "/" not in arguments[0]:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    name, revision = arguments[0], (arguments[1:] or ["main"])[0]
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    folder = f"{hub}/{name}/resolve/{revision}"
    try:
        found = artifacts.remote_facts(folder, os.environ.get("HF_TOKEN", ""))
    except artifacts.Broken as problem:
        sys.stderr.write(f"{folder}: {problem}. Check the name, the revision and the network\n")
        return 1
    sys.stdout.write(json.dumps({"source": folder, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
