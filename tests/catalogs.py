"""The project's own catalogs and inventories, loaded as the playbooks would."""

from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.llm.declare import parse
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.variables import SETTINGS
from ansible.module_utils.llm.plan import quantize as quantize_plan

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {"demo": "localhost", "rtx4090x3": "rtx4090x3"}


def read(path: str) -> Any:
    """A YAML file of the repository."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def raw(inventory: str, **host: Any) -> dict[str, Any]:
    """What `spec.parse` gets for the host of an inventory; `host` overrides its llm_* variables, without the prefix."""
    kinds = ("images", "models", "recipes", "services")
    found = {kind: read(f"group_vars/all/{kind}.yml")[f"llm_{kind}"] for kind in kinds}
    declared = read(f"inventory/{inventory}/host_vars/{HOSTS[inventory]}.yml")
    variables = {**{k.removeprefix("llm_"): v for k, v in declared.items() if k.startswith("llm_")}, **host}
    found["host_services"] = variables.pop("host_services", [])
    found["gpus"] = variables.pop("host_gpus", [])
    found["settings"] = {k: v for k, v in variables.items() if k in SETTINGS}
    return found


def declared(inventory: str, **host: Any) -> Declared:
    """The typed declaration of an inventory's host; fails the test when it is refused."""
    found, findings = parse.parse(raw(inventory, **host))
    assert found is not None, [f.text() for f in findings]
    return quantize_plan.settled(found)


def made(declared: Declared, model: str, **quality: float) -> dict[str, Any]:
    """What the manifest of a model says that was made as declared; `quality` overrides its numbers."""
    origin = quantize_plan.made_of(declared.models[model])
    assert origin
    numbers = {"perplexity_source": 8.0, "perplexity": 8.2, "kl": 0.02, "same_top": 0.97, "tokens": 4096, **quality}
    counts = {"packed": 252, "untouched": 351, "scaled": 0}
    return {"of": origin[0], "recipe": origin[1], "mark": declared.models[model].revision, "quality": numbers, **counts}
