"""The picture of a synthetic set: its first images below the real ones that they started from."""

from matplotlib.figure import Figure

from raydd.board.figures import synthetic_pairs
from raydd.data import Pairs, open_pixels
from raydd.distill.synthetic import SyntheticSet

COLUMNS = 8


def pairs_picture(synthetic: SyntheticSet, train: Pairs, size: int) -> Figure:
    """Draw the first pairs with their start captions; a set without pixels shows its start images twice.

    Args:
        synthetic: the set.
        train: the training pairs that it started from.
        size: side of the images in pixels.
    """
    count = min(COLUMNS, len(synthetic))
    start = open_pixels([train.images[index] for index in synthetic.start_images[:count].tolist()], size)
    captions = [train.captions[int(index)] for index in synthetic.start_captions[:count]]
    pixels = start if synthetic.pixels is None else synthetic.pixels[:count]
    return synthetic_pairs(start.numpy(), pixels.numpy(), captions, count)
