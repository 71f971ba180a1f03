"""Stand-ins for an engine and its library, as wheels of a few hundred bytes: nothing here is vLLM or transformers.

The role's programs ask an image for package metadata, parsers, a registry of architectures and a model configuration. The
stand-in has these at the places where vLLM has them, and no more; tests/contract asks the real engine.

Usage: stubs.py FOLDER     writes FOLDER/mirror/<package>/*.whl (a package index) and FOLDER/wheelhouse/*.whl
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ENGINE = {
    "__init__": """
class ModelRegistry:
    @staticmethod
    def get_supported_archs():
        return {"Glm4MoeLiteForCausalLM", "OtherForCausalLM"}
""",
    "config": """
import json
import pathlib
from vllm.transformers_utils import model_arch_config_convertor as convertor

class ModelConfig:
    def __init__(self, model, tokenizer, skip_tokenizer_init):
        self.hf = json.loads(pathlib.Path(model, "config.json").read_text())
        self.architecture = self.hf["architectures"][0]
        self.use_mla = convertor.Convertor(self.hf).is_deepseek_mla()
""",
    "transformers_utils/__init__": "",
    # As in vLLM, before it knew the model.
    "transformers_utils/model_arch_config_convertor": """
class Convertor:
    def __init__(self, hf):
        self.hf = hf

    def is_deepseek_mla(self):
        if "model_type" not in self.hf:
            return False
        elif self.hf["model_type"] in (
            "deepseek_v3",
        ):
            return "kv_lora_rank" in self.hf
        return False
""",
    "platforms/__init__": """
class Platform:
    def is_unspecified(self):
        return False

current_platform = Platform()
""",
    "envs": 'environment_variables = {"VLLM_KNOWN": lambda: "1"}',
    "tool_parsers": """
class ToolParserManager:
    tool_parsers = {"glm47": object}
    get_tool_parser = tool_parsers.__getitem__
""",
    "reasoning": """
class ReasoningParserManager:
    reasoning_parsers = {"glm45": object}
    get_reasoning_parser = reasoning_parsers.__getitem__
""",
    "utils/__init__": "",
    "utils/argparse_utils": """
import argparse

class FlexibleArgumentParser(argparse.ArgumentParser):
    pass
""",
    "entrypoints/__init__": "",
    "entrypoints/common/__init__": "",
    "entrypoints/common/cli_args": """
def make_arg_parser(parser):
    parser.add_argument("model")
    for flag in ("served-model-name", "host", "config", "tool-call-parser", "reasoning-parser"):
        parser.add_argument("--" + flag)
    for flag in ("port", "max-model-len"):
        parser.add_argument("--" + flag, type=int)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    return parser

def validate_parsed_serve_args(args):
    pass
""",
}


def wheel(folder: Path, name: str, version: str, files: dict[str, str], requires: tuple[str, ...] = ()) -> None:
    """Write a wheel as small as pip takes it."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    content = {
        **files,
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: stubs\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    engine = {f"vllm/{path}.py": text for path, text in ENGINE.items()}
    wheel(folder / "mirror/vllm-stub", "vllm-stub", "0.32.0", engine, ("transformers<5.20.0,>=5.16.1",))
    for version, place in (
        ("5.17.0", "mirror/transformers"),
        ("5.21.0", "mirror/transformers"),
        ("5.19.0", "wheelhouse"),
    ):
        wheel(folder / place, "transformers", version, {"transformers/__init__.py": f"__version__ = '{version}'\n"})


if __name__ == "__main__":
    main()
