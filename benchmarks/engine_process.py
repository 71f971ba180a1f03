"""An engine as a plain process, and the project's modules put to it: for GPU machines that have no Docker.

Needs vllm, openai and ansible-core in the Python that runs it. The engine gets this process's environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEY = "a-key-for-a-benchmark"
NAME = "m"
SHIM = """
import runpy, sys
import ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@dataclass(frozen=True)
class Engine:
    """One that answers."""

    url: str
    boot_seconds: float
    log: Path

    def module(self, name: str, ask: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
        """Result of one of the project's modules (llm_smoke, llm_warmup) that asks this, with these arguments."""
        asked = {"model": NAME, **ask}
        given = {"service": NAME, "base_url": f"{self.url}/v1", "api_key": KEY, "ask": asked, **arguments}
        found = subprocess.run(
            [sys.executable, "-c", SHIM, str(ROOT / "module_utils"), str(ROOT / "library" / f"{name}.py")],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
        if not lines:
            raise RuntimeError(f"{name} said nothing that can be read: {found.stdout[-500:]} {found.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(lines[-1])
        return result


def flags(args: Mapping[str, Any]) -> list[str]:
    """Engine flags as the command line has them; true is a bare flag."""
    given = []
    for key, value in args.items():
        given.append(f"--{key}")
        if value is not True:
            given.append(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return given


@contextmanager
def serving(
    model: Path, args: Mapping[str, Any], env: Mapping[str, str], log: Path, limit: float = 400
) -> Iterator[Engine]:
    """Boot an engine; raises RuntimeError with the end of its log when it does not answer /health in time."""
    port = 8100
    fixed: Sequence[str] = ("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY)
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), *fixed, *flags(args)]
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **env}
        )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() - began > limit:
                    end = log.read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"no answer after {time.monotonic() - began:.0f} s:\n{end}") from None
                time.sleep(0.25)
        yield Engine(f"http://127.0.0.1:{port}", round(time.monotonic() - began, 1), log)
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
