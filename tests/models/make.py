"""Make the test models that are not in the cache yet, and link them into the checkout: `make test-models`.

Each is trained in a container of the engine's image, by train.py, and kept in `$XDG_CACHE_HOME/ansible-vllm/test-models`
(by default below ~/.cache) for all checkouts. Its name there holds a hash of what decides its weights: these files and the
image. So a change of either trains anew, and what is in the cache can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401 - makes our module_utils importable

# isort: split
from ansible.module_utils.llm.plan import compose

from tests import catalogs

HERE = Path(__file__).resolve().parent
LINKS = catalogs.ROOT / ".cache" / "test-models"
FAMILIES = ("glm", "qwen")


def store() -> Path:
    """Folder of the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ansible-vllm" / "test-models"


def image() -> str:
    """Id of the image to train in: the catalog's engine for the CPU, or what LLM_TEST_ENGINE_IMAGE names.

    Raises RuntimeError, with what to do, when it is not on this machine.
    """
    wanted = os.environ.get("LLM_TEST_ENGINE_IMAGE") or compose.image_ref(catalogs.declared("demo").images["vllm-cpu"])
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", wanted]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        said = found.stderr.strip()
        raise RuntimeError(f"cannot train in {wanted}: {said}. Run `make demo` first, or set LLM_TEST_ENGINE_IMAGE")
    return found.stdout.strip()


def name(family: str, image_id: str) -> str:
    """Name of a family's model in the cache."""
    decides = hashlib.sha256(image_id.encode())
    for file in ("conversations.py", "goal.py", "train.py", f"{family}.jinja"):
        decides.update(hashlib.sha256((HERE / file).read_bytes()).digest())
    return f"{family}-{decides.hexdigest()[:12]}"


def models() -> dict[str, Path]:
    """Folder of each family's model, after making those that are not there.

    Raises RuntimeError, with what to do, when there is no image to train in or a training fails.
    """
    image_id = image()
    wanted = {family: store() / name(family, image_id) for family in FAMILIES}
    _train({family: place for family, place in wanted.items() if not place.is_dir()}, image_id)
    LINKS.mkdir(parents=True, exist_ok=True)
    for family, place in wanted.items():
        link = LINKS / family
        link.unlink(missing_ok=True)
        link.symlink_to(place)
    return wanted


def _train(missing: dict[str, Path], image_id: str) -> None:
    """Train side by side, a thread each. What is whole gets its name, and nothing else does."""
    if not missing:
        return
    store().mkdir(parents=True, exist_ok=True)
    drafts = {family: Path(tempfile.mkdtemp(prefix=f".{family}-", dir=store())) for family in missing}
    runs: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for family, draft in drafts.items():
            runs[family] = subprocess.Popen(_command(family, draft, image_id))
        failed = [family for family, run in runs.items() if run.wait() != 0]
        for family in set(missing) - set(failed):
            drafts[family].chmod(0o755)
            if not missing[family].is_dir():  # another run may have been quicker
                drafts[family].rename(missing[family])
    finally:
        for run in runs.values():
            run.terminate()
            run.wait()
        for draft in drafts.values():
            shutil.rmtree(draft, ignore_errors=True)
    if failed:
        raise RuntimeError(f"no test model for {' and '.join(failed)}: the lines above say why")


def _command(family: str, folder: Path, image_id: str) -> list[str]:
    command = ["docker", "run", "--rm", "--init", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--user", f"{os.getuid()}:{os.getgid()}", "--tmpfs", "/tmp", "--env", "HOME=/tmp"]
    command += ["--env", "PYTHONDONTWRITEBYTECODE=1"]
    command += ["--volume", f"{HERE}:/src/tests/models:ro", "--volume", f"{folder}:/model", "--workdir", "/src"]
    return [*command, "--entrypoint", "python3", image_id, "-m", "tests.models.train", family, "/model"]


def main() -> int:
    """Make them, and say where they are."""
    try:
        made = models()
    except RuntimeError as error:
        print(f"test-models: {error}", file=sys.stderr)
        return 1
    for family, place in made.items():
        size = sum(file.stat().st_size for file in place.iterdir()) / 1e6
        print(f"{family}: {size:.1f} MB in {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
