"""What tokenizer_bench measures, with Hugging Face `tokenizers`.

Usage: tokenizer_peer.py TEXT_FILE [ROUNDS]       (from the root of the tree)
"""
import hashlib
import json
import os
import pathlib
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402


def smollm2():
    data = json.loads(
        pathlib.Path("tests/golden/smollm2_tokenizer_data.json").read_text())
    merges = [tuple(merge.split(" ")) for merge in data["merges"]]
    vocabulary = {token: i for i, token in enumerate(data["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main():
    text = pathlib.Path(sys.argv[1]).read_text()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    tokenizer = smollm2()
    encode, decode = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        encode.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        tokenizer.decode(ids)
        decode.append(time.perf_counter() - begin)
    listed = "".join(f"{i} " for i in ids)
    megabytes = 1e-6 * len(text.encode())
    print(json.dumps({
        "encode_mb_s": round(megabytes / min(encode), 3),
        "decode_mb_s": round(megabytes / min(decode), 3),
        "tokens": len(ids),
        "ids_sha256": hashlib.sha256(listed.encode()).hexdigest()}))


if __name__ == "__main__":
    main()
