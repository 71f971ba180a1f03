"""Making a model out of another one on a host, by a container that quantizes: what it needs, its run, its proofs, its name."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.models import artifacts, dataset_files, hub, quantize, store

LOOK_EVERY = 2.0  # seconds between two looks at what the container prints
TAIL = 8192  # bytes of its output that are looked at


class QuantizeFailed(Exception):
    """What keeps a model from being made; the text says why, and what to do."""


class Maker:
    """Makes one model, as module llm_quantize was asked to. free_memory: bytes that programs of the host can get now."""

    def __init__(self, module: Module, free_memory: Callable[[], int]) -> None:
        self.module = module
        self.free_memory = free_memory
        self.folder = Path(module.params["folder"])
        self.source = Path(module.params["source"]["folder"])
        self.recipe: dict[str, Any] = module.params["recipe"]
        self.progress = Progress(module.params["progress_file"])
        self.place = store.partial(self.folder, "quantize")

    # -- before anything is touched -------------------------------------------------------------------------------------

    def foresee(self) -> None:
        """The same as far as it can be told before anything is fetched or repaired. Raises QuantizeFailed."""
        self._check_text()
        state = artifacts.look(self.source)
        if state["present"] and not (state["problem"] and self.module.params["state"] == "repaired"):
            self.check()

    def check(self) -> dict[str, Any]:
        """What the source is: {digest, bytes, config}. Raises QuantizeFailed when it cannot be quantized here."""
        self._check_text()
        of = self.module.params["source"]["name"]
        state = artifacts.look(self.source)
        if not state["present"]:
            # A stage `models` fetches it only for a model that is not there.
            first = f"Remove {self.folder}, and " if self.folder.is_dir() else ""
            raise QuantizeFailed(f"its source {of} is not in {self.source}. {first}`site.yml --tags models` fetches it")
        if state["problem"]:
            raise QuantizeFailed(
                f"its source {of} is damaged: {state['problem']}. playbooks/verify_models.yml -e llm_repair=true"
            )
        config = json.loads((self.source / "config.json").read_text(encoding="utf-8"))
        if config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config"):
            raise QuantizeFailed(
                f"its source {of} is quantized already. Declare the model in its full precision as the source"
            )
        need, free = quantize.memory_need(state["bytes"], config, self.recipe), self.free_memory()
        if need > free:
            raise QuantizeFailed(f"{quantize.no_memory(need, free)}. {quantize.NO_MEMORY}")
        self.memory = free - quantize.SPARE // 2
        room = shutil.disk_usage(next(p for p in self.folder.parents if p.is_dir())).free
        if problem := store.no_room(state["bytes"], room, str(self.folder.parent)):
            raise QuantizeFailed(problem)
        return {"digest": state["digest"], "bytes": state["bytes"], "tied": bool(config.get("tie_word_embeddings"))}

    def _check_text(self) -> None:
        dataset = self.recipe["dataset"]
        if (file := dataset.get("file")) and (problem := dataset_files.look(Path(file))):
            raise QuantizeFailed(f"the text {file} {problem}. {self._where()}")
        if not file and self.module.params["offline"]:
            message = f"the data set {dataset['hub']} needs the network, and llm_offline is set"
            raise QuantizeFailed(f"{message}. {self._where()}")

    def _where(self) -> str:
        return quantize.other_text(self.recipe["name"])

    # -- making it ------------------------------------------------------------------------------------------------------

    def make(self) -> tuple[dict[str, Any], Path]:
        """Make the model, and prove it. Returns what was made, and the folder that it lies in."""
        source = self.check()
        wanted = quantize.container(self.folder.name)
        self._remove(wanted)
        shutil.rmtree(self.place, ignore_errors=True)
        for path in (self.place, self.place / "out", self.place / "text"):
            path.mkdir(parents=True)
        text = self._text()
        shutil.copy(self.module.params["program"], self.place / quantize.PROGRAM)
        job = {"source": "/source", "text": f"/job/text/{text['file']}", "out": "/job/out", "recipe": self.recipe}
        (self.place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        uid = self.module.params["engine_uid"]
        for path in (self.place, *self.place.rglob("*")):
            os.chown(path, uid, uid)
        began = time.monotonic()
        try:
            result = self._run(wanted, uid)
        finally:
            self._remove(wanted)
        out = self.place / "out"
        for path in (self.place, *self.place.rglob("*")):  # who serves it must not be able to change it
            os.chown(path, 0, 0)
        proof = self._prove(out, result, source["tied"])
        recipe = {k: v for k, v in self.recipe.items() if k not in ("name", "quality")}
        made = {
            "of": self.module.params["source"]["name"],
            "source_digest": source["digest"],
            "source_bytes": source["bytes"],
            "recipe": self.recipe["name"],
            "settings": recipe,
            "mark": self.folder.name,
            "image": self.module.params["image"],
            "text": text,
            "packed": len(proof.packed),
            "untouched": len(proof.compare),
            "scaled": len(result["smoothed"]),
            "wall_seconds": round(time.monotonic() - began, 1),
            **{k: result[k] for k in ("versions", "quality", "pieces", "peaks", "device", "seconds")},
        }
        return made, out

    def _text(self) -> dict[str, Any]:
        """Bring the text; returns {file, sha256} of it, with the commit of a data set."""
        dataset = self.recipe["dataset"]
        if "file" in dataset:
            file = Path(dataset["file"])
            shutil.copyfile(file, self.place / "text" / file.name)
            more: dict[str, Any] = {}
        else:
            file, more = self._from_hub(dataset)
            if problem := dataset_files.look(file):
                raise QuantizeFailed(f"{file.name} of the data set {dataset['hub']} {problem}. {self._where()}")
        return {"file": file.name, "sha256": artifacts.sha256(self.place / "text" / file.name), **more}

    def _from_hub(self, dataset: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        huggingface_hub = hub.library(self.place / "hub")
        endpoint, token = self.module.params["hub_endpoint"], self.module.params["hub_token"] or False
        self.progress.say("fetch text", dataset["hub"])
        try:
            api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
            info = api.dataset_info(dataset["hub"], revision=dataset.get("revision", "main"), timeout=10)
            names = sorted(s.rfilename for s in info.siblings or () if fnmatch.fnmatch(s.rfilename, dataset["match"]))
            if not names:
                raise QuantizeFailed(f"the data set {dataset['hub']} has no file {dataset['match']}. {self._where()}")
            found = huggingface_hub.hf_hub_download(
                dataset["hub"],
                names[0],
                repo_type="dataset",
                revision=info.sha,
                local_dir=self.place / "hub" / "files",
                endpoint=endpoint,
                token=token,
            )
        except QuantizeFailed:
            raise
        except Exception as error:  # the library raises many kinds; their texts may show signed addresses
            status = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
            message = f"the data set {dataset['hub']} cannot be had from {endpoint} ({status})"
            raise QuantizeFailed(
                f"{message}. Check name, network and llm_hub_token, or name a file on the host"
            ) from error
        file = self.place / "text" / Path(names[0]).name
        shutil.move(found, file)
        shutil.rmtree(self.place / "hub", ignore_errors=True)
        return file, {"commit": info.sha}

    def _run(self, name: str, uid: int) -> dict[str, Any]:
        """Run the program, passing on where it is; returns what it wrote."""
        params = self.module.params
        argv = quantize.argv(
            name, params["image"], str(self.place), str(self.source), uid, self.memory, params["devices"]
        )
        log, done = self.place / "output.log", threading.Event()
        (self.place / "watched").touch()
        self.progress.say("start", f"{params['image']}, with at most {store.size(self.memory)} of memory")
        watcher = threading.Thread(target=self._watch, args=(log, done), daemon=True)
        watcher.start()
        # A shell sends the output to the log, which run_command alone would hold back until the end.
        command = 'log="$1"; shift; exec "$@" >"$log" 2>&1'
        try:
            rc, _, _ = self.module.run_command(["/bin/sh", "-c", command, "sh", str(log), *argv])
        finally:
            done.set()
            watcher.join()
        try:
            result: dict[str, Any] = json.loads((self.place / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            result = {}
        if rc == 137:
            raise QuantizeFailed(
                f"the container was killed: it wanted more than {store.size(self.memory)}. {quantize.NO_MEMORY}"
            )
        if error := result.get("error"):
            about = f"the text {self.recipe['dataset'].get('file', self.recipe['dataset'].get('hub'))}"
            what = about if "pieces of" in error or "be read" in error or "column" in error else "its source"
            raise QuantizeFailed(f"{what} {error}")
        lines = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
        if rc == 125:  # Docker's own
            said = next((line for line in lines if "rror" in line), "Docker did not say why")[:300]
            raise QuantizeFailed(
                f"the container was not started: {said}. If its image is missing, `site.yml --tags images` makes it"
            )
        if rc or not result:
            raise QuantizeFailed(f"llm-compressor ended with {rc}: {lines[-1][:400] if lines else 'it said nothing'}")
        return result

    def _watch(self, log: Path, done: threading.Event) -> None:
        """Pass on where the program is, and let it know that somebody waits."""
        pace, shown = quantize.Pace(), None
        while not done.wait(LOOK_EVERY):
            os.utime(self.place / "watched")
            try:
                with log.open("rb") as stream:
                    stream.seek(max(0, log.stat().st_size - TAIL))
                    line = pace.line(stream.read().decode("utf-8", "replace"), time.monotonic())
            except OSError:
                continue
            if line and line != shown:
                self.progress.say(*line)
                shown = line

    def _prove(self, out: Path, result: dict[str, Any], tied: bool) -> quantize.Proof:
        """Every module packed that is to be, every tensor as it was that is not. Raises QuantizeFailed."""
        self.progress.say("prove", "tensors that must be as they were")
        artifacts.check_folder(out)
        before, after = artifacts.tensors(self.source), artifacts.tensors(out)
        proof = quantize.prove(before, after, result, self.recipe["method"], tied)
        changed = [n for n in proof.compare if not artifacts.same_bytes(self.source, before[n], out, after[n])]
        if problems := [*proof.problems, *(f"{n} has other bytes than in the source" for n in changed)]:
            more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise QuantizeFailed(
                f"the result is not what the recipe says: {'; '.join(problems[:5])}{more}. Report it, with the versions "
                f"{result['versions']}"
            )
        return proof

    def _remove(self, container: str) -> None:
        """What an interrupted run has left at work."""
        self.module.run_command(["docker", "rm", "--force", container])

    def accept(self, made: dict[str, Any], out: Path) -> str:
        """Give a result its name, or set it aside and raise QuantizeFailed. Returns its digest."""
        origin = {"source": f"quantize {made['of']}", "revision": self.folder.name, "made": made}
        say = lambda name: self.progress.say("verify", name)  # noqa: E731
        if why := quantize.beyond(made["quality"], self.recipe["quality"]):
            aside = store.aside(self.folder)
            shutil.rmtree(aside, ignore_errors=True)
            store.settle(out, aside, origin, say)
            raise QuantizeFailed(f"{quantize.refusal(self.recipe['name'], why, str(aside))}. {quantize.REMEDY}")
        return store.settle(out, self.folder, origin, say)

    def clean(self) -> None:
        """Remove what is put together."""
        shutil.rmtree(self.place, ignore_errors=True)


def _aside(maker: Maker) -> dict[str, Any] | None:
    """What was made before by the same recipe, and was not good enough then."""
    try:
        made: dict[str, Any] = store.read_manifest(store.aside(maker.folder))["origin"]["made"]
    except (artifacts.Broken, KeyError):
        return None
    return made if made.get("mark") == maker.folder.name else None


def make(module: Module, maker: Maker) -> dict[str, Any]:
    """Make a model that is not there, or take one whose limits were raised."""
    folder, recipe = maker.folder, maker.recipe
    how = recipe["method"] + (f", groups of {recipe['group_size']}" if recipe["method"] != "fp8-dynamic" else "")
    before = _aside(maker)
    if before and (why := quantize.beyond(before["quality"], recipe["quality"])):
        raise QuantizeFailed(f"{quantize.refusal(recipe['name'], why, str(store.aside(folder)))}. {quantize.REMEDY}")
    said = "set aside before, and within the limits now" if before else f"from {module.params['source']['name']}: {how}"
    result: dict[str, Any] = {
        "changed": True,
        "digest": "",
        "made": {},
        "diff": {"before": "", "after": f"{folder} ({recipe['name']}, {said})\n"},
    }
    if module.check_mode:
        if not before:
            maker.foresee()
        return result
    try:
        if before:
            if damaged := store.damage(store.aside(folder), deep=True):
                raise QuantizeFailed(
                    f"{store.aside(folder)} is damaged: {next(iter(damaged.values()))}. Remove it, and it is made anew"
                )
            store.aside(folder).rename(folder)
            return {**result, "digest": store.read_manifest(folder)["digest"], "made": before}
        made, out = maker.make()
        digest = maker.accept(made, out)
    finally:
        maker.clean()
    result["diff"]["after"] += f"{quantize.summary(made)}\n"
    return {**result, "digest": digest, "made": made}


def present(module: Module, maker: Maker) -> dict[str, Any]:
    """Have the model; returns the result of module llm_quantize."""
    state = artifacts.look(maker.folder)
    if state["problem"]:
        raise QuantizeFailed(
            f"{maker.folder} is damaged: {state['problem']}. Run playbooks/verify_models.yml with -e llm_repair=true"
        )
    if not state["present"]:
        return make(module, maker)
    if problem := quantize.foreign(state.get("made"), maker.folder.name):
        raise QuantizeFailed(f"what lies in {maker.folder} {problem}. Remove the folder, and it is made anew")
    return {"changed": False, "digest": state["digest"], "made": {}}


def repaired(module: Module, maker: Maker) -> dict[str, Any]:
    """Look at the model, and make it anew if it is damaged: what quantizing gives is not the same bit for bit everywhere."""
    result: dict[str, Any] = {"changed": False, "digest": "", "made": {}}
    if not maker.folder.is_dir():
        damaged = {artifacts.MANIFEST: f"{maker.folder} is not there. `site.yml --tags models` makes it"}
    else:
        damaged = store.damage(
            maker.folder, module.params["depth"] == "deep", lambda t: maker.progress.say("verify", t)
        )
        if not damaged:
            result["digest"] = store.read_manifest(maker.folder)["digest"]
        else:
            result = make(module, maker)
    again = sorted(damaged) if result["digest"] and damaged else []
    found = {
        "ok": bool(result["digest"]),
        "depth": module.params["depth"],
        "digest": result["digest"],
        "damaged": damaged,
    }
    verdict = {**found, "repaired": again, "source": f"quantize {module.params['source']['name']}" if again else ""}
    return {**result, "ok": found["ok"], "verdict": {module.params["name"]: verdict}}


_BY_NAME = {"present": present, "repaired": repaired}


def reach(module: Module, free_memory: Callable[[], int]) -> dict[str, Any]:
    """Bring a model to the state that module llm_quantize was asked for; returns its result. free_memory: see Maker.

    Raises QuantizeFailed, FetchFailed, Broken, OSError.
    """
    return _BY_NAME[module.params["state"]](module, Maker(module, free_memory))
