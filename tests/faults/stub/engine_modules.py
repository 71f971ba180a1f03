"""STUB of vLLM as a library: what engine_check.py asks of the engine's own code, at the places where vLLM has it."""

LIBRARY = {
    "__init__": "",
    "envs": """
NAMES = ("VLLM_CACHE_ROOT", "VLLM_NO_USAGE_STATS")
environment_variables = {name: lambda: "" for name in NAMES}
""",
    "platforms/__init__": """
class Platform:
    def is_unspecified(self):
        return False

current_platform = Platform()
""",
    "tool_parsers": """
class ToolParserManager:
    tool_parsers = {}
    get_tool_parser = tool_parsers.__getitem__
""",
    "reasoning": """
class ReasoningParserManager:
    reasoning_parsers = {}
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
    for flag in ("served-model-name", "host", "config"):
        parser.add_argument("--" + flag)
    for flag in ("port", "max-model-len"):
        parser.add_argument("--" + flag, type=int)
    return parser

def validate_parsed_serve_args(args):
    pass
""",
    "model_executor/__init__": "",
    "model_executor/models/__init__": "",
    "model_executor/models/registry": "",
    "engine/__init__": "",
    "engine/arg_utils": """
class AsyncEngineArgs:
    architecture = "LlamaForCausalLM"
    generation_config = "vllm"
    skip_tokenizer_init = True

    @classmethod
    def from_cli_args(cls, args):
        return cls()

    def create_model_config(self):
        return self
""",
}
"""Path in the package, without .py, to its text."""
