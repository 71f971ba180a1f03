"""What the modules that talk to an engine with the OpenAI SDK have in common; the SDK itself is not imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.llm.base import names
from ansible.module_utils.llm.base.redact import redact, shorten
from ansible.module_utils.llm.docker import api as docker_api
from ansible.module_utils.llm.engine import judge


def missing_sdk(error: str) -> str:
    """Return the message for an interpreter without the SDK."""
    return (
        f"The OpenAI SDK is missing under the Python that runs this module ({error}). Run it with the venv that role "
        "host_tools makes: set ansible_python_interpreter to its bin/python."
    )


def read_key(params: Mapping[str, Any]) -> str:
    """Return the key given as `api_key`, or held by the file `api_key_file`; ValueError has a message for the user."""
    if params["api_key"]:
        return str(params["api_key"])
    path = Path(params["api_key_file"])
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(
            f"api_key_file {path}: {error.strerror}. Run with `become: true`; a deployed service has its key there."
        ) from error
    if not key:
        raise ValueError(f"api_key_file {path} is empty. Delete it and deploy the service again: a key is made.")
    return key


def metrics_url(params: Mapping[str, Any]) -> str:
    """Where the metrics are of the engine in `container`, "" when that has no address; without one, beside `base_url`."""
    if not params["container"]:
        health = params.get("health_url") or judge.health_url(params["base_url"])
        return f"{health.removesuffix('/health')}/metrics"
    try:
        ip = docker_api.container_ip(docker_api.inspect(params["container"]), names.NETWORK)
    except docker_api.DockerError:
        ip = ""
    return f"http://{ip}:{names.ENGINE_PORT}/metrics" if ip else ""


def explain(error: BaseException, secrets: Sequence[str] = ()) -> tuple[int, str]:
    """Return (HTTP status or 0, text) of an error, without secrets.

    A connection error of the SDK says only "Connection error."; its causes say why.
    """
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 4:
        text = str(current).strip() or type(current).__name__
        if text not in chain:
            chain.append(text)
        current = current.__cause__
    number = status if isinstance(status, int) else 0
    return number, shorten(redact("; ".join(chain), secrets), 300).rstrip(". ")


def failure(error: BaseException, secrets: Sequence[str] = ()) -> tuple[str, str]:
    """Say what an error of the library means, and what to do, without secrets."""
    status, why = explain(error, secrets)
    if status == 401:
        return (
            "401: the key given is not one of the service's keys",
            "Check `api_key` or the content of `api_key_file`.",
        )
    if status == 404:
        return f"404: {why}", "Check `base_url` (it ends with /v1) and `model`."
    if status:
        return f"{status}: {why}", "Read the engine's log (`docker logs`)."
    if "SSL" in why or "CERTIFICATE" in why:
        return (
            f"{type(error).__name__}: {why}",
            "Check the scheme of `base_url`: engines speak http. For https the certificate must be one that this host trusts "
            "(SSL_CERT_FILE) and name this address.",
        )
    return f"{type(error).__name__}: {why}", "Check that the container runs and that `base_url` is right."
