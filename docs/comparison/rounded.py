"""What a set of features keeps when its numbers are stored in fewer bits: r_mean of students of the rounded set.

python docs/comparison/rounded.py FOLDER 16 8 4    # a set's folder in the store that made it, and bits a number
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
    """Rows as they are read back: half precision for 16 bits, else whole multiples of a unit that each row has."""
    if bits == 16:
        return rows.half().float()
    unit = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (rows / unit).round() * unit


def main(folder: Path, every: list[int]) -> None:
    """Print the size and r_mean on test of the set as it is, and in so many bits a number."""
    opened = open_set(folder)
    config = opened.provenance.config({"distill.method": "repblend"})  # a method of one's own is not needed here
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
