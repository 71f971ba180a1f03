#!/usr/bin/python
"""Have an image on the host, from the first of its sources that delivers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llm_image
short_description: Pull, load, build or bootstrap a container image
description:
  - Tries the sources of an image in their order and takes the first that delivers. An image that is there is left alone;
    its reference changes with its recipe, so a changed recipe is a new image.
  - The images that a build starts from are made the same way, when they are needed.
options:
  name:
    description: Name of the image in the catalog.
    type: str
    required: true
  ref:
    description: Reference to have in the end.
    type: str
    required: true
  sources:
    description:
      - Sources in the catalog's form, each with one of C(pull) (a reference), C(archive) (a file on the host that C(docker load)
        reads), C(build) (steps) or C(bootstrap) (a Debian suite).
    type: list
    elements: dict
    required: true
  bases:
    description: Images that builds start from, each with C(name), C(ref), C(sources), C(bases).
    type: list
    elements: dict
    default: []
  folder:
    description: Folder on the host for build contexts.
    type: path
    default: /opt/llm/images
  wheelhouse:
    description: Folder on the host with Python packages that builds look into first.
    type: path
  ca_bundle:
    description: CA bundle on the host that builds trust, as behind a company proxy. It does not stay in the image.
    type: path
  progress_file:
    description: File for progress lines; filled in by the action plugin.
    type: path
attributes:
  check_mode:
    description: Says whether the image would be made, and how.
    support: full
  diff_mode:
    description: Names the image that would appear.
    support: full
  idempotent:
    description: An image that is there is left alone.
    support: full
author: ansible-vllm
"""

EXAMPLES = r"""
- name: Image of the gateway
  llm_image:
    name: haproxy
    ref: docker.io/library/haproxy:3.2-alpine
    sources:
      - pull: docker.io/library/haproxy:3.2-alpine
"""

RETURN = r"""
id:
  description: Id of the image, empty in check mode.
  returned: always
  type: str
source:
  description: Kind of the source that delivered, empty when the image was there.
  returned: always
  type: str
tried:
  description: Sources that did not deliver, with the reason.
  returned: always
  type: list
  elements: str
"""

import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llm import docker_api, files, host, images
from ansible.module_utils.llm.progress import Progress


class Failed(Exception):
    """A source that does not deliver; the text is its last words."""


class Maker:
    """Makes images with the docker command."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.progress = Progress(module.params["progress_file"])

    def run(self, what: str, argv: list[str], **options: Any) -> None:
        """Run a command, passing its newest output line on as progress. Raises Failed with its last lines."""
        with tempfile.NamedTemporaryFile("w+", suffix=".log", errors="replace") as log:
            done = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(what, Path(log.name), done), daemon=True)
            watcher.start()
            # A shell sends the output to the log, which run_command alone would hold back until the end.
            command = 'log="$1"; shift; exec "$@" >"$log" 2>&1'
            rc, _, _ = self.module.run_command(["/bin/sh", "-c", command, "sh", log.name, *argv], **options)
            done.set()
            watcher.join()
            if rc != 0:
                lines = [line for line in Path(log.name).read_text(errors="replace").splitlines() if line.strip()]
                raise Failed("\n".join(lines[-12:]) or f"exit status {rc}")

    def _watch(self, what: str, log: Path, done: threading.Event) -> None:
        last = ""
        while not done.wait(5):
            lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
            newest = next((line for line in reversed(lines) if line), "")
            if newest != last:
                last = newest
                self.progress.say(what, newest[:160])

    def make(self, job: dict[str, Any]) -> tuple[str, list[str]]:
        """Make one image. Returns the kind of source that delivered, and what the others said."""
        tried: list[str] = []
        for source in job["sources"]:
            kind = next(k for k in ("pull", "archive", "build", "bootstrap") if k in source)
            what = f"{kind} {job['name']}"
            self.progress.say(what, str(source[kind]) if isinstance(source[kind], str) else "")
            try:
                getattr(self, f"_{kind}")(job, source[kind])
                if image_id(job["ref"]):
                    return kind, tried
                raise Failed(f"it delivered another image than {job['ref']}")
            except Failed as failure:
                tried.append(f"{what}: {failure}")
        lines = "\n".join(f"- {line}" for line in tried)
        message = f"llm_images.{job['name']}: no source delivers {job['ref']}.\n{lines}\nAdd a source that this host can reach."
        self.module.fail_json(msg=message, tried=tried)
        raise AssertionError  # fail_json does not return

    def _pull(self, job: dict[str, Any], reference: str) -> None:
        self.run(f"pull {job['name']}", ["docker", "pull", reference])
        self._tag(reference, job["ref"])

    def _archive(self, job: dict[str, Any], path: str) -> None:
        if not Path(path).is_file():
            raise Failed(f"there is no file {path}")
        before = {i["Id"] for i in docker_api.get("/images/json")}
        self.run(f"load {job['name']}", ["docker", "load", "--input", path])
        if not image_id(job["ref"]):
            new = {i["Id"] for i in docker_api.get("/images/json")} - before
            if len(new) == 1:
                self._tag(new.pop(), job["ref"])

    def _tag(self, source: str, ref: str) -> None:
        if source != ref and not image_id(ref):
            self.run(f"tag {ref}", ["docker", "tag", source, ref])

    def _bootstrap(self, job: dict[str, Any], spec: dict[str, Any]) -> None:
        name = job["name"]
        if not self.module.get_bin_path("debootstrap"):
            if not self.module.get_bin_path("apt-get"):
                raise Failed("it needs debootstrap, and this host has no apt-get to install it")
            self.run(f"bootstrap {name}", ["apt-get", "update", "-q"])
            self.run(f"bootstrap {name}", ["apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap"])
        packages = ",".join(spec.get("packages") or [])
        # Not in /tmp, which hardened hosts mount without device files, and a base system has some.
        place = Path(self.module.params["folder"])
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bootstrap-", dir=place) as folder:
            tree = f"{folder}/tree"
            include = [f"--include={packages}"] if packages else []
            self.run(f"bootstrap {name}", ["debootstrap", "--variant=minbase", *include, spec["suite"], tree])
            tar = f"{folder}/tree.tar"
            self.run(f"bootstrap {name}", ["tar", "--one-file-system", "-C", tree, "-cf", tar, "."])
            self.run(f"import {name}", ["docker", "import", "--change", 'CMD ["bash"]', tar, job["ref"]])

    def _build(self, job: dict[str, Any], build: dict[str, Any]) -> None:
        base = next(b for b in job["bases"] if b["name"] == build["base"])
        if not image_id(base["ref"]):
            self.make(base)
        wheelhouse, ca_bundle = self.module.params["wheelhouse"], self.module.params["ca_bundle"] or ""
        context = Path(self.module.params["folder"]) / job["name"]
        context.mkdir(parents=True, exist_ok=True)
        text = images.dockerfile(build, base["ref"], bool(wheelhouse), bool(ca_bundle))
        files.write(context / "Dockerfile", text)
        for path, entry in (build.get("files") or {}).items():
            files.write(context / images.context_name(path), entry["content"])
        files.write(
            context / "compose.yml", json.dumps(images.build_file(job["name"], job["ref"], ca_bundle), indent=1)
        )
        wheels = context / "wheelhouse"
        shutil.rmtree(wheels, ignore_errors=True)
        try:
            if wheelhouse:
                shutil.copytree(wheelhouse, wheels, copy_function=link_or_copy)
            argv = ["docker", "compose", "--file", str(context / "compose.yml"), "--progress", "plain", "build"]
            self.run(f"build {job['name']}", argv, cwd=str(context))
        finally:
            shutil.rmtree(wheels, ignore_errors=True)


def link_or_copy(source: str, target: str) -> None:
    """Hard link where the file system allows it: a wheelhouse can be large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def image_id(reference: str) -> str:
    """Id of an image, "" when it is not there."""
    return host.image_ids(docker_api.get("/images/json"), [reference]).get(reference, "")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "ref": {"type": "str", "required": True},
            "sources": {"type": "list", "elements": "dict", "required": True},
            "bases": {"type": "list", "elements": "dict", "default": []},
            "folder": {"type": "path", "default": "/opt/llm/images"},
            "wheelhouse": {"type": "path"},
            "ca_bundle": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    ref = module.params["ref"]
    try:
        found = image_id(ref)
        if found:
            module.exit_json(changed=False, id=found, source="", tried=[])
        if not module.check_mode:
            kind, tried = Maker(module).make(module.params)
            module.exit_json(changed=True, id=image_id(ref), source=kind, tried=tried)
    except docker_api.DockerError as error:
        if not module.check_mode:  # a fresh host has no engine yet when it is only checked
            module.fail_json(msg=f"llm_images.{module.params['name']}: {error}")
    kinds = " or ".join(
        next(k for k in ("pull", "archive", "build", "bootstrap") if k in s) for s in module.params["sources"]
    )
    diff = {"before": "", "after": f"{ref} (by {kinds})\n"}
    module.exit_json(changed=True, id="", source="", tried=[], diff=diff)


if __name__ == "__main__":
    main()
