"""What a model's folder on a host can be brought to: present, verified, repaired, absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.models import artifacts, store
from ansible.module_utils.llm.models.fetch import KINDS, Fetched, Fetcher
from ansible.module_utils.llm.models.store import FetchFailed


def _whole(fetched: Fetched) -> None:
    artifacts.check_folder(fetched.place)


def _settle(fetched: Fetched, fetcher: Fetcher) -> str:
    return store.settle(
        fetched.place, fetcher.folder, fetched.origin, lambda n: fetcher.progress.say("verify", n), fetched.hashes
    )


def present(module: Module) -> dict[str, Any]:
    """Fetch a model that is not there."""
    folder = Path(module.params["folder"])
    state = artifacts.look(folder)
    if state["problem"]:
        remedy = "Run playbooks/verify_models.yml with -e llm_repair=true"
        raise artifacts.Broken(f"{folder} is damaged: {state['problem']}. {remedy}.")
    if state["present"]:
        return {"changed": False, "digest": state["digest"], "source": "", "tried": []}
    if module.check_mode:
        kinds = " or ".join(next(k for k in KINDS if k in s) for s in module.params["sources"])
        diff = {"before": "", "after": f"{folder} (from {kinds})\n"}
        return {"changed": True, "digest": "", "source": "", "tried": [], "diff": diff}
    fetcher = Fetcher(module)
    fetched, tried = fetcher.fetch(module.params["sources"], _whole)
    return {"changed": True, "digest": _settle(fetched, fetcher), "tried": tried, **_told_of(fetched)}


def _told_of(fetched: Fetched) -> dict[str, Any]:
    return {"source": fetched.origin["source"], "fetched": {"written": fetched.written, "found": fetched.found}}


def verified(module: Module) -> dict[str, Any]:
    """Look at a model, and with state repaired fetch what is damaged."""
    folder, depth = Path(module.params["folder"]), module.params["depth"]
    progress = Progress(module.params["progress_file"])
    result: dict[str, Any] = {"changed": False, "digest": "", "source": "", "tried": []}
    repaired: list[str] = []
    there = folder.is_dir()
    if there:
        damaged = store.damage(folder, depth == "deep", lambda text: progress.say("verify", text))
    else:
        damaged = {artifacts.MANIFEST: f"{folder} is not there. `site.yml --tags models` fetches it"}
    if not damaged:
        result["digest"] = store.read_manifest(folder)["digest"]
    elif module.params["state"] == "repaired" and (there or module.params["fetch_missing"]):
        result |= {"changed": True, "diff": {"before": "".join(f"{v}\n" for v in damaged.values()), "after": ""}}
        if not module.check_mode:
            result |= _repair(module, folder, damaged)
            repaired = sorted(damaged)
    ok = not damaged or bool(repaired)
    found = {"ok": ok, "depth": depth, "digest": result["digest"], "damaged": damaged, "repaired": repaired}
    return {**result, "ok": ok, "verdict": {module.params["name"]: {**found, "source": result["source"]}}}


def _repair(module: Module, folder: Path, damaged: dict[str, str]) -> dict[str, Any]:
    """Fetch damaged files again and put each in its place; the others stay. Without a manifest all are judged anew."""
    sources = module.params["sources"]
    if artifacts.MANIFEST in damaged:
        fetcher = Fetcher(module)
        fetched, tried = fetcher.fetch(sources, _whole)
        return {"digest": _settle(fetched, fetcher), "tried": tried, **_told_of(fetched)}
    manifest = store.read_manifest(folder)
    origin = manifest["origin"]
    if values.COMMIT.fullmatch(str(origin.get("commit", ""))):  # the branch may have moved since
        label = origin["source"]
        sources = [{**s, "revision": origin["commit"]} if f"hub {s.get('hub')}" == label else s for s in sources]
    fetcher = Fetcher(module, tuple(sorted(damaged)))

    def as_listed(fetched: Fetched) -> None:
        for name in fetcher.only:
            if not store.verified(fetched.place / name, manifest["files"][name]):
                raise FetchFailed(
                    f"its {name} is another than was verified. Remove {folder}, and site.yml fetches it anew"
                )

    fetched, tried = fetcher.fetch(sources, as_listed)
    for name in fetcher.only:
        new = fetched.place / name
        new.chmod(0o644)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        new.replace(folder / name)  # an engine that has the old one open keeps it
    for left in store.partials(folder):
        shutil.rmtree(left)
    artifacts.check_folder(folder)
    return {"digest": manifest["digest"], "tried": tried, **_told_of(fetched)}


def absent(module: Module) -> dict[str, Any]:
    """Remove a folder; its name is free at once."""
    folder = Path(module.params["folder"])
    result: dict[str, Any] = {"changed": folder.is_dir(), "digest": "", "source": "", "tried": []}
    if result["changed"]:
        result["diff"] = {"before": f"{folder}\n", "after": ""}
    if result["changed"] and not module.check_mode:
        going = (
            folder
            if folder.name.startswith(".")
            else folder.rename(folder.with_name(f".{folder.name}.removed.partial"))
        )
        shutil.rmtree(going)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return result


_BY_NAME = {"present": present, "verified": verified, "repaired": verified, "absent": absent}


def reach(module: Module) -> dict[str, Any]:
    """Bring a model to the state that module llm_model was asked for; returns its result. Raises FetchFailed, Broken, OSError."""
    return _BY_NAME[module.params["state"]](module)
