"""What is put to an image before anything is stopped for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible.module_utils.llm.declare.facts import NO_MODEL, NO_RELEASES, Content, Facts
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.images import images
from ansible.module_utils.llm.plan import compose
from ansible.module_utils.llm.plan.types import PreflightJob, PreflightModel


def jobs(
    declared: Declared,
    facts: Facts,
    services: Iterable[str],
    rendered: Mapping[str, compose.Release],
    configs: Mapping[str, Content],
    *,
    predict: bool = False,
) -> list[PreflightJob]:
    """What is to be asked before these services are deployed, an entry for each image.

    A release that is current was asked before: its hash covers image, command, plugins and model. configs: config.json by
    model, for models that are not on the host. predict: it is check mode, and an image that is not there can't be asked.
    """
    found: dict[str, PreflightJob] = {}
    for name in services:
        release, service = rendered[name], declared.services[name]
        ref = compose.image_ref(declared.images[service.image])
        known = ref in facts["images"]
        if facts["releases"].get(name, NO_RELEASES)["current"] == release.hash or (predict and not known):
            continue
        job = found.setdefault(
            ref,
            {
                "image": ref,
                "image_id": facts["images"].get(ref, ""),
                "records": f"{declared.settings.root}/state/preflight",
                "services": {},
            },
        )
        model: PreflightModel = {}
        state = facts["models"].get(service.model, NO_MODEL)
        if state["digest"]:
            folder = compose.model_dir(declared.settings, declared.models[service.model])
            model = {"folder": folder, "digest": state["digest"]}
        elif configs.get(service.model):
            model = {"config": configs[service.model]}
        job["services"][name] = {
            "argv": release.facts["command"],
            "env": release.facts["environment"],
            "files": images.plugin_texts(release.files),
            "model": model,
        }
    return list(found.values())
