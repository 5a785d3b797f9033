"""Writes smollm2_tokenizer_data.json: the tokenizer metadata of the model.

Usage: make_tokenizer_data.py MODEL.gguf OUT.json   (needs the package gguf)
The model is SmolLM2-135M-Instruct.Q4_1.gguf; see README.md of this folder.
Tests build a TokenizerSpec from the result, because a hermetic test cannot
read the model file.
"""
import json
import sys

from gguf import GGUFReader


def main():
    model, out = sys.argv[1:]
    meta = {k: f.contents() for k, f in GGUFReader(model).fields.items()
            if k.startswith("tokenizer.")}
    ggml = {k.removeprefix("tokenizer.ggml."): v for k, v in meta.items()}
    kinds = ggml["token_type"]
    data = {
        "pre": ggml["pre"],
        "add_bos": ggml["add_bos_token"],
        "bos_id": ggml["bos_token_id"],
        "eos_id": ggml["eos_token_id"],
        "unk_id": ggml["unknown_token_id"],
        "pad_id": ggml["padding_token_id"],
        # every other token is normal (1)
        "types": {str(i): k for i, k in enumerate(kinds) if k != 1},
        "tokens": ggml["tokens"],
        "merges": ggml["merges"],
    }
    with open(out, "w", encoding="utf-8", newline="\n") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
