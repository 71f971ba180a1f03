"""Diagnostics of a real container that holds secrets in every place where one could be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import llm_diagnose
import pytest
from ansible.module_utils.llm.engine import diagnostics
from ansible.module_utils.llm.plan import compose

from tests import catalogs

pytestmark = pytest.mark.e2e

CANARY = "canary-" + "5e1d" * 6
PROGRAM = """
import http.server, sys
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers(), self.wfile.write(b"vllm:num_requests_running 1\\n")
server = http.server.HTTPServer(("", 8000), Metrics)
print("started with", sys.argv[1:], flush=True)
server.serve_forever()
"""  # a stand-in for the engine: what is under test is Docker's inspection and log


def test_no_secret_of_a_container_is_kept(
    docker_client: docker.DockerClient, tmp_path: Path, run_module: Callable[..., dict[str, Any]]
) -> None:
    secrets = tmp_path / "releases" / "0123456789ab" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "client-key").write_text(CANARY)
    container = docker_client.containers.run(
        compose.image_ref(catalogs.declared("demo").images["vllm-cpu"]),
        ["-c", PROGRAM, "--api-key", CANARY, f"--hf-token={CANARY}"],
        entrypoint=["python3"],
        environment={"VLLM_API_KEY": CANARY, "HF_TOKEN": CANARY, "OMP_NUM_THREADS": "2"},
        labels={"token": CANARY},
        detach=True,
    )
    try:
        for line in container.logs(stream=True):
            assert b"started" in line
            break
        arguments = {
            "service": "micro",
            "folder": str(tmp_path),
            "release": "0123456789ab",
            "container": container.name,
            "cause": f"answered {CANARY}",
        }
        result = run_module(llm_diagnose, arguments)
    finally:
        container.remove(force=True)
    folder = Path(result["folder"])
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(texts) | set(result["missing"]) == {
        "cause.json",
        "gpu.txt",
        "inspect.json",
        "log.txt",
        "metrics.txt",
    }
    assert [name for name, text in texts.items() if CANARY in text] == []
    assert "OMP_NUM_THREADS=2" in texts["inspect.json"] and "num_requests_running 1" in texts["metrics.txt"]
    assert "started with" in texts["log.txt"]
    assert json.loads(texts[diagnostics.CAUSE])["state"]["status"] == "running"
