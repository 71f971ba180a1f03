"""Write a model folder of a few kilobytes: two shards with an index, whole by every check that reads no weights.

Usage: make_model.py FOLDER WORD     (WORD makes the content of one revision differ from another's)
"""

import json
import struct
import sys
from pathlib import Path


def shard(name: str, word: str) -> bytes:
    """Bytes of a safetensors file with one tensor."""
    data = (word.encode() * 512)[:1024]
    header = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def main() -> None:
    """Write config, shards, index and tokenizer."""
    folder, word = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True)
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for tensor, file in names.items():
        (folder / file).write_bytes(shard(tensor, word))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "note": word}))
    (folder / "tokenizer.json").write_text("{}")


if __name__ == "__main__":
    main()
