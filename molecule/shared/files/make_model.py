"""Write a small model folder: two shards with an index, whole by every check that reads no weights.

Usage: make_model.py FOLDER WORD [KIB]     (WORD makes one revision differ from another; KIB of weights in a shard, 1 without it)
"""

import json
import struct
import sys
from pathlib import Path


def shard(name: str, word: str, size: int) -> bytes:
    """Bytes of a safetensors file with one tensor."""
    data = (word.encode() * size)[:size]
    header = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def main() -> None:
    """Write config, shards, index and tokenizer."""
    folder, word, kib = Path(sys.argv[1]), sys.argv[2], int([*sys.argv, "1"][3])
    folder.mkdir(parents=True)
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for tensor, file in names.items():
        (folder / file).write_bytes(shard(tensor, word, kib * 1024))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "note": word}))
    (folder / "tokenizer.json").write_text("{}")


if __name__ == "__main__":
    main()
