"""Making images on a host: pull, load, bootstrap or build one, prove it inside itself, and only then give it its name."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import files, names
from ansible.module_utils.llm.base.module import Module
from ansible.module_utils.llm.base.progress import Progress
from ansible.module_utils.llm.declare.facts import ImageRecord, Proof
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.host import read as read_host
from ansible.module_utils.llm.images import images

KINDS = ("pull", "archive", "build", "bootstrap")
NOTHING_MADE: Mapping[str, Any] = {"source": "", "tried": [], "found": [], "proofs": []}


class BuildFailed(Exception):
    """A source that does not deliver; the text is its last words."""


@dataclasses.dataclass
class Delivery:
    """What a source delivers: an image, names that were not there before, and what a build found in its base."""

    source: str
    image: str = ""
    names: list[str] = dataclasses.field(default_factory=list)
    found: list[str] = dataclasses.field(default_factory=list)
    require: list[str] = dataclasses.field(default_factory=list)
    proofs: list[Proof] = dataclasses.field(default_factory=list)
    tried: list[str] = dataclasses.field(default_factory=list)


class Maker:
    """Makes images with the docker command, as module llm_image was asked to."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.progress = Progress(module.params["progress_file"])
        self.folder = Path(module.params["folder"])
        self.records = Path(module.params["records"]) if module.params["records"] else None

    # -- commands -------------------------------------------------------------------------------------------------

    def run(self, what: str, argv: list[str], **options: Any) -> str:
        """Run a command, passing its newest output line on as progress. Raises BuildFailed with its last lines."""
        with tempfile.NamedTemporaryFile("w+", suffix=".log", errors="replace") as log:
            done = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(what, Path(log.name), done), daemon=True)
            watcher.start()
            # A shell sends the output to the log, which run_command alone would hold back until the end.
            command = 'log="$1"; shift; exec "$@" >"$log" 2>&1'
            rc, _, _ = self.module.run_command(["/bin/sh", "-c", command, "sh", log.name, *argv], **options)
            done.set()
            watcher.join()
            output = Path(log.name).read_text(errors="replace")
            if rc != 0:
                lines = [line for line in output.splitlines() if line.strip()]
                raise BuildFailed("\n".join(lines[-12:]) or f"exit status {rc}")
            return output

    def _watch(self, what: str, log: Path, done: threading.Event) -> None:
        last = ""
        while not done.wait(5):
            lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
            newest = next((line for line in reversed(lines) if line), "")
            if newest != last:
                last = newest
                self.progress.say(what, newest[:160])

    def ask(self, image: str, mode: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer of image_check.py inside an image."""
        programs = self.module.params["programs"]
        if images.CHECK not in programs:
            raise BuildFailed(f"looking into {image} needs the programs that role vllm_image brings")
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".programs-", dir=self.folder) as place:
            for name, content in programs.items():
                files.write(Path(place, name), content)
            Path(place).chmod(0o755)  # whatever the umask is, a user without rights reads them
            argv = images.sandbox(image, [f"{images.PROGRAMS}/{images.CHECK}", mode], {images.PROGRAMS: place})
            rc, out, err = self.module.run_command(argv, data=json.dumps(request), binary_data=True)
        try:
            answer: dict[str, Any] = json.loads(out)
        except ValueError as error:
            last = "\n".join(err.strip().splitlines()[-8:])
            raise BuildFailed(f"the check inside {image} ended with {rc} and no answer: {last}") from error
        return answer

    # -- one image ------------------------------------------------------------------------------------------------

    def record_of(self, ref: str) -> ImageRecord | None:
        """What was written down when an image was made."""
        return read_host.image_records(self.records).get(ref) if self.records else None

    def has(self, job: Mapping[str, Any]) -> bool:
        """Whether an image is there, and proven as far as it is to be."""
        found = image_id(job["ref"])
        return bool(found) and images.is_proven(found, job["proofs"], self.record_of(job["ref"]))

    def make(self, job: Mapping[str, Any]) -> Delivery:
        """Make one image. Raises BuildFailed with the reasons of all sources."""
        tried: list[str] = []
        # Somebody may have loaded it by hand: then it only has to be proven.
        present: list[dict[str, Any]] = [{"present": job["ref"]}] if image_id(job["ref"]) else []
        for source in [*present, *job["sources"]]:
            kind = next(k for k in ("present", *KINDS) if k in source)
            what = f"{kind} {job['name']}"
            self.progress.say(what, str(source[kind]) if isinstance(source[kind], str) else "")
            delivery = Delivery(kind, tried=tried)
            try:
                getattr(self, f"_{kind}")(job, source[kind], delivery)
                self.prove(job, delivery)
            except (BuildFailed, images.Unfit) as failure:
                tried.append(f"{what}: {failure}")
                self.remove([*delivery.names, candidate(job), *([job["ref"]] if kind == "present" else [])])
                continue
            self.name(job, delivery)
            return delivery
        lines = "\n".join(f"- {line}" for line in tried)
        raise BuildFailed(f"llm_images.{job['name']}: no source delivers {job['ref']}.\n{lines}")

    def prove(self, job: Mapping[str, Any], delivery: Delivery) -> None:
        """Put all proofs to what a source delivered. Raises BuildFailed with those that don't hold."""
        request = images.proof_request(job, delivery.require)
        if not request:
            return
        self.progress.say(f"prove {job['name']}", f"{len(job['services'])} services, {delivery.image}")
        delivery.proofs = self.ask(delivery.image, "prove", request)["proofs"]
        if bad := [p for p in delivery.proofs if not p["ok"]]:
            raise BuildFailed("; ".join(images.proof_lines(bad)))

    def name(self, job: Mapping[str, Any], delivery: Delivery) -> None:
        """Write down what was made, and give it its name."""
        found = image_id(delivery.image)
        if self.records:
            record: ImageRecord = {
                "id": found,
                "source": delivery.source,
                "names": [n for n in delivery.names if n != job["ref"]],
                "found": delivery.found,
                "proofs": delivery.proofs,
            }
            write_records(self.records, {**read_host.image_records(self.records), job["ref"]: record})
        if image_id(job["ref"]) != found:
            self.run(f"tag {job['ref']}", ["docker", "tag", found, job["ref"]])
        self.remove([candidate(job)])

    def remove(self, names: Iterable[str]) -> None:
        """Take names away, and with its last name an image. One that a container uses stays."""
        for name in names:
            if image_id(name):
                self.module.run_command(["docker", "image", "rm", name])

    # -- sources --------------------------------------------------------------------------------------------------

    def _present(self, _job: Mapping[str, Any], ref: str, delivery: Delivery) -> None:
        delivery.image = ref

    def _pull(self, job: Mapping[str, Any], reference: str, delivery: Delivery) -> None:
        before = image_id(reference)
        self.run(f"pull {job['name']}", ["docker", "pull", reference])
        delivery.image, delivery.names = reference, [] if before else [reference]

    def _archive(self, job: Mapping[str, Any], path: str, delivery: Delivery) -> None:
        if not Path(path).is_file():
            raise BuildFailed(f"there is no file {path}")
        before = names_here()
        loaded = images.loaded(self.run(f"load {job['name']}", ["docker", "load", "--input", path]))
        delivery.names = [n for n in loaded if n not in before and not n.startswith("sha256:")]
        if job["ref"] not in loaded and len({image_id(n) for n in loaded}) != 1:
            raise BuildFailed(f"{path} has {', '.join(loaded) or 'no image'}: neither {job['ref']} nor one image alone")
        delivery.image = job["ref"] if job["ref"] in loaded else loaded[0]

    def _bootstrap(self, job: Mapping[str, Any], spec: Mapping[str, Any], delivery: Delivery) -> None:
        name = job["name"]
        if not self.module.get_bin_path("debootstrap"):
            if not self.module.get_bin_path("apt-get"):
                raise BuildFailed("it needs debootstrap, and this host has no apt-get to install it")
            self.run(f"bootstrap {name}", ["apt-get", "update", "-q"])
            self.run(f"bootstrap {name}", ["apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap"])
        packages = ",".join(spec.get("packages") or [])
        # Not in /tmp, which hardened hosts mount without device files, and a base system has some.
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bootstrap-", dir=self.folder) as folder:
            tree = f"{folder}/tree"
            include = [f"--include={packages}"] if packages else []
            self.run(f"bootstrap {name}", ["debootstrap", "--variant=minbase", *include, spec["suite"], tree])
            tar = f"{folder}/tree.tar"
            self.run(f"bootstrap {name}", ["tar", "--one-file-system", "-C", tree, "-cf", tar, "."])
            self.run(f"import {name}", ["docker", "import", "--change", 'CMD ["bash"]', tar, candidate(job)])
        delivery.image = candidate(job)

    def _build(self, job: Mapping[str, Any], build: Mapping[str, Any], delivery: Delivery) -> None:
        base = next(b for b in job["bases"] if b["name"] == build["base"])
        if not self.has(base):
            self.make(base)
        lack = images.Lacking()
        if images.asks_base(build):
            self.progress.say(f"inspect {base['name']}", base["ref"])
            request = {"require": build.get("require") or [], "patches": build.get("patches") or []}
            inspected = self.ask(base["ref"], "inspect", request)
            lack = images.lacking(build, inspected)
            delivery.found, delivery.require = images.explain(inspected), list(request["require"])
            for line in delivery.found:
                self.progress.say(f"inspect {base['name']}", line)
        if images.adds_nothing(build, lack):
            delivery.image = base["ref"]
            delivery.found.append(f"nothing to build: it is {base['ref']}")
        else:
            self._build_layers(job, build, base["ref"], lack)
            delivery.image = candidate(job)

    def _build_layers(self, job: Mapping[str, Any], build: Mapping[str, Any], base: str, lack: images.Lacking) -> None:
        wheelhouse, ca_bundle = self.module.params["wheelhouse"], self.module.params["ca_bundle"] or ""
        mirror = self.module.params["pip_mirror"]
        lent = images.Lent(bool(wheelhouse), bool(ca_bundle), bool(mirror))
        context = self.folder / job["name"]
        wheels = context / "wheelhouse"
        shutil.rmtree(context, ignore_errors=True)
        program = self.module.params["programs"].get(images.CHECK, "")
        for name, text in images.context(build, base, lent, lack, program).items():
            files.write(context / name, text)
        try:
            if wheelhouse:
                shutil.copytree(wheelhouse, wheels, copy_function=link_or_copy)
            with pip_config(mirror) as config:
                document = images.build_file(job["name"], candidate(job), ca_bundle, config)
                files.write(context / "compose.yml", json.dumps(document, indent=1))
                argv = ["docker", "compose", "--file", str(context / "compose.yml"), "--progress", "plain", "build"]
                self.run(f"build {job['name']}", argv, cwd=str(context))
        finally:
            shutil.rmtree(wheels, ignore_errors=True)


def candidate(job: Mapping[str, Any]) -> str:
    """Name of an image that is not proven yet."""
    return f"{names.LOCAL}{job['name']}:candidate"


@contextmanager
def pip_config(mirror: str | None) -> Iterator[str]:
    """A file with pip's settings for a build, which may hold a password; "" without a mirror."""
    if not mirror:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:  # readable by its owner alone
        config.write(f"[global]\nindex-url = {mirror}\n")
        config.flush()
        yield config.name


def link_or_copy(source: str, target: str) -> None:
    """Hard link where the file system allows it: a wheelhouse can be large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def image_id(reference: str) -> str:
    """Id of an image, "" when it is not there."""
    if reference.startswith("sha256:"):
        return reference
    return read_host.image_ids(docker_api.get("/images/json"), [reference]).get(reference, "")


def names_here() -> set[str]:
    """Names of all images on the host."""
    return {name for image in docker_api.get("/images/json") for name in image.get("RepoTags") or []}


def write_records(path: Path, records: Mapping[str, ImageRecord]) -> None:
    """Keep what was made; see image_records of host/read.py."""
    files.write(path, json.dumps(records, indent=1, sort_keys=True) + "\n")


def present(module: Module) -> dict[str, Any]:
    """Have the image that module llm_image was asked for; returns its result. Raises BuildFailed."""
    maker, job = Maker(module), module.params
    ref = job["ref"]
    if maker.has(job):
        return {"changed": False, "id": image_id(ref), **NOTHING_MADE}
    if module.check_mode:
        return foreseen(job)
    made = maker.make(job)
    shown = [f"{ref} (by {made.source})", *made.found, *images.proof_lines(made.proofs)]
    diff = {"before": "", "after": "".join(f"{line}\n" for line in shown)}
    result = {"source": made.source, "tried": made.tried, "found": made.found, "proofs": made.proofs}
    return {"changed": True, "id": image_id(ref), "diff": diff, **result}


def absent(module: Module) -> dict[str, Any]:
    """Take the name away that module llm_image was asked to; returns its result. Raises BuildFailed."""
    maker, ref = Maker(module), module.params["ref"]
    found = image_id(ref)
    if found and not module.check_mode:
        maker.run(f"remove {ref}", ["docker", "image", "rm", ref])
        if maker.records:
            records = {r: e for r, e in read_host.image_records(maker.records).items() if r != ref}
            for entry in records.values():
                entry["names"] = [n for n in entry["names"] if n != ref]
            write_records(maker.records, records)
    diff = {"before": f"{ref}\n" if found else "", "after": ""}
    return {"changed": bool(found), "id": found, "diff": diff, **NOTHING_MADE}


def foreseen(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a check says where an image is not there, or Docker does not answer. job: options of module llm_image."""
    if job["state"] == "absent":
        return {"changed": False, "id": "", **NOTHING_MADE}
    kinds = " or ".join(next(k for k in KINDS if k in s) for s in job["sources"])
    proofs = sum(len(v) for v in job["proofs"].values()) + len(job["services"] if job["proofs"] else ())
    after = f"{job['ref']} (by {kinds}{f'; {proofs} proofs first' if proofs else ''})\n"
    return {"changed": True, "id": "", "diff": {"before": "", "after": after}, **NOTHING_MADE}
