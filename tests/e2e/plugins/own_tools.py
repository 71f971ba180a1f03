"""A tool parser of an operator's own, by a name that the engine does not know."""

from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser


@ToolParserManager.register_module("own")
class OwnToolParser(Hermes2ProToolParser):
    """The engine's hermes, under another name."""
