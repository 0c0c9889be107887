"""Measures how much r_mean a set of features keeps if its numbers are stored in fewer bits.

python docs/comparison/rounded.py FOLDER 16 8 4    # a set's folder in the store that made it, and bits per number
"""

import sys
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

import raydd
from raydd.sets.read import open_set, store_of
from raydd.stages import score_students


def rounded(rows: Float[Tensor, "N d"], bits: int) -> Float[Tensor, "N d"]:
    """Return the rows as they are read back: half precision for 16 bits, else integers with one scale per row."""
    if bits == 16:
        return rows.half().float()
    scale = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (rows / scale).round() * scale


def main(folder: Path, every: list[int]) -> None:
    """Print size and test r_mean of the set as it is, and stored in each of the given numbers of bits per number."""
    opened = open_set(folder)
    config = opened.provenance.config({"distill.method": "repblend"})  # scoring does not need the set's own method
    work, pairs = raydd.open(config, store_of(opened, config.place)), opened.synthetic
    numbers = pairs.image_features.numel() + pairs.text_features.numel()
    for bits in (32, *every):
        images, texts = (
            rows if bits == 32 else rounded(rows, bits) for rows in (pairs.image_features, pairs.text_features)
        )
        stored = replace(pairs, image_features=images, text_features=texts)
        scores = score_students(work, stored, split="test", seeds=range(5))
        print(f"{len(pairs)} pairs, {bits} bits, {numbers * bits / 8e3:.0f} kB: r_mean {scores.mean['r_mean']:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(bits) for bits in sys.argv[2:]])
