"""From an image's build steps to a Dockerfile and the compose file that builds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

CA_BUNDLE = "/run/secrets/ca.pem"


def dockerfile(build: Mapping[str, Any], base: str, wheelhouse: bool, ca_bundle: bool) -> str:
    """Dockerfile of one `build` source.

    base: reference to start from. wheelhouse: the context has a folder `wheelhouse` that pip looks into before any index.
    ca_bundle: the build gets the secret `ca`, a bundle that pip trusts; it does not stay in the image.
    """
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
    if build.get("pip"):
        lines.append(_pip(build, wheelhouse, ca_bundle))
    for path in sorted(build.get("files") or {}):
        entry = build["files"][path]
        lines.append(f"COPY --chmod={entry.get('mode', '0644')} {context_name(path)} {path}")
    if build.get("user"):
        lines.append(f"USER {build['user']}")
    for word in ("entrypoint", "command"):
        if build.get(word) is not None:
            lines.append(f"{'CMD' if word == 'command' else 'ENTRYPOINT'} {json.dumps(list(build[word]))}")
    return "\n".join(lines) + "\n"


def _pip(build: Mapping[str, Any], wheelhouse: bool, ca_bundle: bool) -> str:
    venv = build.get("venv", "/opt/venv")
    mounts, settings = [], ["PIP_NO_CACHE_DIR=1", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_ROOT_USER_ACTION=ignore"]
    if wheelhouse:
        mounts.append("--mount=type=bind,source=wheelhouse,target=/wheelhouse")
        settings.append("PIP_FIND_LINKS=/wheelhouse")
    elif build.get("pip_index"):
        settings.append(f"PIP_EXTRA_INDEX_URL={_shell(build['pip_index'])}")
    if ca_bundle:
        mounts.append(f"--mount=type=secret,id=ca,target={CA_BUNDLE}")
        settings.append(f"PIP_CERT={CA_BUNDLE}")
    steps = [
        f"python3 -m venv {venv}",
        f"export {' '.join(settings)}",
        f"{venv}/bin/pip install --progress-bar off {' '.join(_shell(p) for p in build['pip'])}",
    ]
    if build.get("pip_remove"):
        steps.append(f"{venv}/bin/pip uninstall -y {' '.join(_shell(p) for p in build['pip_remove'])}")
    return "RUN " + " ".join([*mounts, ""]) + " \\\n && ".join(steps)


def _shell(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9@%+=:,./_-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def context_name(path: str) -> str:
    """Name in the build context of a file that goes to `path` in the image."""
    return "files/" + path.strip("/").replace("/", "_")


def build_file(name: str, ref: str, ca_bundle: str) -> dict[str, Any]:
    """Compose file that builds an image. Compose brings BuildKit along where the docker command lacks it."""
    build: dict[str, Any] = {"context": ".", "network": "default"}
    document: dict[str, Any] = {"name": f"llm-build-{name}", "services": {"image": {"image": ref, "build": build}}}
    if ca_bundle:
        build["secrets"] = ["ca"]
        document["secrets"] = {"ca": {"file": ca_bundle}}
    return document
