"""Make `ansible.module_utils.llm` importable outside Ansible, as its loader would, and modules callable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--saturated",
        metavar="SECONDS",
        type=float,
        default=300,
        help="how long the test of a busy engine keeps it busy",
    )
    parser.addoption(
        "--silent",
        metavar="SECONDS",
        type=float,
        default=1800,
        help="seconds for which nobody asks the engine that has to answer after a silence",
    )


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Give a function that runs a module's main with arguments and returns its result."""
    from ansible.module_utils.testing import patch_module_args

    def run(module: Any, arguments: dict[str, Any], *, check_mode: bool = False) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run
