"""Writes <format>.bin: stored blocks of random codes, then their values.

Usage: python3 make_blocks.py   (needs numpy and gguf, tested with 0.17)

The values come from the gguf package's dequantiser, which shares no code with
this project: 8 blocks, then one little-endian float32 an element.
"""

import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize

BLOCKS = 8
# Bytes of a block, elements, offsets of its float16 scales.
FORMATS = {
    "Q5_0": (22, 32, [0]),
    "Q5_1": (24, 32, [0, 2]),
    "Q4_K": (144, 256, [0, 2]),
    "Q5_K": (176, 256, [0, 2]),
    "Q6_K": (210, 256, [208]),
}


def main():
    random = np.random.default_rng(20251)
    folder = pathlib.Path(__file__).parent
    for name, (size, elements, scales) in FORMATS.items():
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for offset in scales:
            halves = random.normal(0, 0.02, BLOCKS).astype(np.float16)
            blocks[:, offset:offset + 2] = halves.view(np.uint8).reshape(-1, 2)
        kind = getattr(gguf.GGMLQuantizationType, name)
        values = dequantize(blocks, kind).astype(np.float32)
        assert values.size == BLOCKS * elements
        path = folder / f"{name.lower()}.bin"
        path.write_bytes(blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
