"""A tool of ours for clients that take tools over MCP (stdio): the weather of one city."""

from __future__ import annotations

import json
import sys
from typing import Any

CITY, ANSWER = "Paris", "sunny, 21 C"
TOOL = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "inputSchema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": [CITY]}},
        "required": ["city"],
        "additionalProperties": False,  # so that the grammar leaves no other argument
    },
}


def answer(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The result of one request."""
    if method == "initialize":
        about = {"name": "weather", "version": "1"}
        return {"protocolVersion": parameters["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        text = ANSWER if parameters["arguments"] == {"city": CITY} else "no such city"
        return {"content": [{"type": "text", "text": text}]}
    return {}


def main() -> None:
    """Answer until the client hangs up."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            result = answer(asked["method"], asked.get("params") or {})
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
