"""A client inside a stub host's network: one question. Usage: client.py URL KEY MODEL MAX_TOKENS (0: not streamed).

Prints one line of JSON for each piece of a stream, and at the end {"status", "pieces", "finish", "said"}; said: of an error.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

url, key, model, tokens = *sys.argv[1:4], int(sys.argv[4])
body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
if tokens:
    body |= {"stream": True, "max_tokens": tokens, "ignore_eos": True}
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
result: dict[str, Any] = {"status": 0, "pieces": 0, "finish": None, "said": ""}
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=120) as answer:
        result["status"] = answer.status
        for line in answer:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                result["pieces"] += len(choices)
                result["finish"] = choices[0]["finish_reason"] if choices else result["finish"]
                print(json.dumps(result), flush=True)
except urllib.error.HTTPError as error:
    result["status"], text = error.code, error.read().decode()
    result["said"] = json.loads(text)["error"]["message"] if text.startswith("{") else text
except OSError as error:
    result["finish"] = str(error)
print(json.dumps(result), flush=True)
