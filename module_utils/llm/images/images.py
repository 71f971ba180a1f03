"""What an image is made of: from build steps to a Dockerfile, what a base lacks of them, what is asked of the result.

Also which images of a host nobody needs any more. No I/O; module llm_image acts.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.llm.declare.facts import ImageRecord, Proof

CA_BUNDLE = "/run/secrets/ca.pem"
PIP_CONFIG = "/run/secrets/pip.conf"
CHECK = "image_check.py"  # the program that looks at an image from inside
PROGRAMS = "/programs"  # where it is in a container that is asked
RECORDS = (
    "state/images.json"  # below the project's folder on the host: what was made and proven; the role's vars say it too
)


class Unfit(Exception):
    """A base cannot become what is declared; the text says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Lent:
    """What a build gets from outside and leaves behind: packages, a CA bundle, a mirror of PyPI."""

    wheelhouse: bool = False
    ca_bundle: bool = False
    pip_mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Lacking:
    """What a base lacks of `require` and `patches`. constraints: ranges that its engine declares, in pip's form."""

    install: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    patches: tuple[Mapping[str, str], ...] = ()


# ---------------------------------------------------------------------------------------------------------------------
# Builds.


def asks_base(build: Mapping[str, Any]) -> bool:
    """Whether a base has to be looked at before it is known what is to be built."""
    return bool(build.get("require") or build.get("patches"))


def lacking(build: Mapping[str, Any], inspected: Mapping[str, Any]) -> Lacking:
    """What the base lacks, from what image_check.py answered to `inspect`. Raises Unfit with all reasons."""
    engine = inspected["engine"] or "its engine"
    problems = [
        f"`require` asks for {r['requirement']}, and {engine} of the base declares {r['package']}{r['declared']}: no version"
        " is in both. Ask for one in that range, or choose another base"
        for r in inspected["require"]
        if not r["possible"]
    ]
    problems += [
        f"patch `{p['name']}` does not fit this base: {p['reason']}. Write it anew for this version, or drop it if the engine"
        " no longer needs it"
        for p in inspected["patches"]
        if p["state"] == "unfit"
    ]
    if problems:
        raise Unfit("; ".join(problems))
    needed = {p["name"] for p in inspected["patches"] if p["state"] == "needed"}
    return Lacking(
        install=tuple(r["requirement"] for r in inspected["require"] if not r["satisfied"]),
        constraints=tuple(inspected["constraints"]),
        patches=tuple(p for p in build.get("patches") or [] if p["name"] in needed),
    )


def explain(inspected: Mapping[str, Any]) -> list[str]:
    """What was found in a base, a line each."""
    lines = []
    for r in inspected["require"]:
        has = f"base has {r['installed']}" if r["installed"] else "base has none"
        declares = f", {inspected['engine']} declares {r['declared']}" if r["declared"] else ""
        lines.append(f"{r['requirement']}: {has}{declares}; {'left as it is' if r['satisfied'] else 'to be installed'}")
    done = {"there": "its target has it, nothing to do", "needed": "its target lacks it, applied"}
    lines += [f"patch {p['name']}: {done[p['state']]} ({p['target']})" for p in inspected["patches"]]
    return lines


def adds_nothing(build: Mapping[str, Any], lack: Lacking) -> bool:
    """Whether the result is the base itself under another name."""
    steps = set(build) - {"base", "require", "constraints", "patches"}
    return not any(build[step] for step in steps) and not lack.install and not lack.patches


def context(
    build: Mapping[str, Any], base: str, lent: Lent, lack: Lacking | None = None, program: str = ""
) -> dict[str, str]:
    """Files of a build's context, without a wheelhouse: name -> content. base: reference to start from."""
    lack = lack or Lacking()
    found = {"Dockerfile": dockerfile(build, base, lent, lack)}
    found.update({context_name(path): entry["content"] for path, entry in (build.get("files") or {}).items()})
    if constraints := _constraints(build, lack):
        found["constraints.txt"] = "".join(f"{line}\n" for line in constraints)
    if lack.patches:
        found[f"patch/{CHECK}"] = program
        found["patch/request.json"] = json.dumps({"patches": [dict(p) for p in lack.patches]}, indent=1)
    return found


def _constraints(build: Mapping[str, Any], lack: Lacking) -> list[str]:
    return [*(build.get("constraints") or []), *(lack.constraints if lack.install else ())]


def dockerfile(build: Mapping[str, Any], base: str, lent: Lent, lack: Lacking | None = None) -> str:
    """Dockerfile of one `build` source. What is lent comes as a mount or a secret, and does not stay in the image."""
    lack = lack or Lacking()
    lines = [f"FROM {base}", 'SHELL ["/bin/bash", "-o", "pipefail", "-c"]']
    env = {str(k): str(v) for k, v in (build.get("env") or {}).items()}
    if env:
        lines.append("ENV " + " ".join(f"{key}={json.dumps(value)}" for key, value in sorted(env.items())))
    if build.get("packages"):
        packages = " ".join(_shell(p) for p in build["packages"])
        lines.append(
            "RUN apt-get update -q \\\n"
            f" && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends {packages} \\\n"
            " && rm -rf /var/lib/apt/lists/*"
        )
    constrained = bool(_constraints(build, lack))
    if build.get("pip"):
        venv = build.get("venv", "/opt/venv")
        steps = [f"python3 -m venv {venv}", *_install(build, f"{venv}/bin/pip", build["pip"], lent, constrained)]
        if build.get("pip_remove"):
            steps.append(f"{venv}/bin/pip uninstall -y {' '.join(_shell(p) for p in build['pip_remove'])}")
        lines.append(_run(_mounts(lent, constrained), steps))
    if lack.install:
        # The base's own Python, which a distribution may have marked as its own; in an image nobody else uses it.
        steps = ["export PIP_BREAK_SYSTEM_PACKAGES=1"]
        steps += _install(build, "python3 -m pip", lack.install, lent, constrained)
        lines.append(_run(_mounts(lent, constrained), steps))
    if lack.patches:
        mount = "--mount=type=bind,source=patch,target=/run/patch"
        lines.append(_run([mount], [f"python3 /run/patch/{CHECK} apply </run/patch/request.json"]))
    for path in sorted(build.get("files") or {}):
        entry = build["files"][path]
        lines.append(f"COPY --chmod={entry.get('mode', '0644')} {context_name(path)} {path}")
    if build.get("user"):
        lines.append(f"USER {build['user']}")
    for word in ("entrypoint", "command"):
        if build.get(word) is not None:
            lines.append(f"{'CMD' if word == 'command' else 'ENTRYPOINT'} {json.dumps(list(build[word]))}")
    return "\n".join(lines) + "\n"


def _run(mounts: Iterable[str], steps: Iterable[str]) -> str:
    return "RUN " + " ".join([*mounts, ""]) + " \\\n && ".join(steps)


def _mounts(lent: Lent, constrained: bool) -> list[str]:
    mounts = []
    if lent.wheelhouse:
        mounts.append("--mount=type=bind,source=wheelhouse,target=/wheelhouse")
    if constrained:
        mounts.append("--mount=type=bind,source=constraints.txt,target=/run/constraints.txt")
    if lent.ca_bundle:
        mounts.append(f"--mount=type=secret,id=ca,target={CA_BUNDLE}")
    if lent.pip_mirror:
        mounts.append(f"--mount=type=secret,id=pip,target={PIP_CONFIG}")
    return mounts


def _install(
    build: Mapping[str, Any], pip: str, packages: Iterable[str], lent: Lent, constrained: bool
) -> tuple[str, str]:
    settings = ["PIP_NO_CACHE_DIR=1", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_ROOT_USER_ACTION=ignore"]
    if lent.wheelhouse:
        settings.append("PIP_FIND_LINKS=/wheelhouse")
    elif build.get("pip_index"):
        settings.append(f"PIP_EXTRA_INDEX_URL={_shell(build['pip_index'])}")
    if lent.ca_bundle:
        settings.append(f"PIP_CERT={CA_BUNDLE}")
    if lent.pip_mirror:
        settings.append(f"PIP_CONFIG_FILE={PIP_CONFIG}")
    words = " ".join(_shell(p) for p in packages)
    constraint = "--constraint /run/constraints.txt " if constrained else ""
    return f"export {' '.join(settings)}", f"{pip} install --progress-bar off {constraint}{words}"


def _shell(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9@%+=:,./_-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def context_name(path: str) -> str:
    """Name in the build context of a file that goes to `path` in the image."""
    return "files/" + path.strip("/").replace("/", "_")


def build_file(name: str, ref: str, ca_bundle: str, pip_config: str = "") -> dict[str, Any]:
    """Compose file that builds an image. Compose brings BuildKit along where the docker command lacks it."""
    build: dict[str, Any] = {"context": ".", "network": "default"}
    document: dict[str, Any] = {"name": f"llm-build-{name}", "services": {"image": {"image": ref, "build": build}}}
    secrets = {key: {"file": file} for key, file in (("ca", ca_bundle), ("pip", pip_config)) if file}
    if secrets:
        build["secrets"] = list(secrets)
        document["secrets"] = secrets
    return document


# ---------------------------------------------------------------------------------------------------------------------
# Asking an image.


def sandbox(image: str, argv: Iterable[str], mounts: Mapping[str, str] | None = None) -> list[str]:
    """Command that runs Python in an image with nothing at hand: no network, no rights, no GPU. mounts: there -> here."""
    command = ["docker", "run", "--rm", "--interactive", "--network", "none", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "--read-only", "--user", "65534:65534"]
    # As engines have them: /cache is where their environment points to.
    command += ["--tmpfs", "/tmp:exec,mode=1777", "--tmpfs", "/cache:exec,mode=1777", "--env", "HOME=/tmp"]  # noqa: S108
    for target, source in (mounts or {}).items():
        command += ["--mount", f"type=bind,source={source},target={target},readonly"]
    return [*command, "--entrypoint", "python3", image, *argv]


def plugin_texts(files: Mapping[str, str]) -> dict[str, str]:
    """A release's plugin files as engine_check.py takes them: by name, without their folder."""
    return {path.removeprefix("plugins/"): text for path, text in files.items()}


def proof_request(job: Mapping[str, Any], require: Iterable[str] = ()) -> dict[str, Any]:
    """What image_check.py is to prove of an image: {} when nothing is asked of it.

    job: as module llm_image takes it. require: requirements of the build that made the image.
    """
    require = list(require)
    if not job.get("proofs") and not require:
        return {}
    services = {
        name: {"argv": s["argv"], "env": s["env"], "files": plugin_texts(s["files"])}
        for name, s in (job.get("services") or {}).items()
    }
    return {"require": require, "proofs": dict(job.get("proofs") or {}), "services": services}


def proof_lines(proofs: Iterable[Proof]) -> list[str]:
    """Proofs a person can read, one a line."""
    return [f"{'proven' if p['ok'] else 'NOT PROVEN'}: {p['proof']} ({p['evidence']})" for p in proofs]


def is_proven(image: str, proofs: Mapping[str, Any], record: ImageRecord | None) -> bool:
    """Whether proofs were held in exactly the image that has the name now. image: its id."""
    return not proofs or bool(record and record.get("id") == image and record.get("proofs"))


def loaded(output: str) -> list[str]:
    """References or ids of the images that `docker load` says it has loaded."""
    return re.findall(r"^Loaded image(?: ID)?: (\S+)$", output, flags=re.MULTILINE)


def remedy(failure: str) -> str:
    """What to do about an image that could not be made."""
    if "no space left on device" in failure.lower():
        return (
            "The disk of Docker's data is full: make room there (`docker system df` shows what takes it) and run again."
        )
    return "Add a source that this host can reach, or correct what is named."
