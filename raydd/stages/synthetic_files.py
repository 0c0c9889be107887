"""What a reader without raydd sees of a synthetic set: PNG images, and the real captions nearest to each text."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from raydd.data import CaptionRows, Pairs
from raydd.distill.heads import to_sphere
from raydd.distill.synthetic import SyntheticSet
from raydd.store import Record

NEAREST = 5  # captions listed for each text feature


def write_readable(record: Record, synthetic: SyntheticSet, texts: CaptionRows, pairs: Pairs) -> list[str]:
    """Write `pairs.parquet` and, where there are pixels, `images/000.png` and on; gives the nearest captions.

    Each row of `pairs.parquet` has the pair's number, its image file, the id and the caption of the real pair that it
    started from, and the real captions nearest to its text feature with their cosines.
    """
    nearest, cosines = nearest_captions(synthetic.text_features, texts)
    files = [f"images/{number:03}.png" if synthetic.pixels is not None else None for number in range(len(synthetic))]
    first = [pairs.captions[index] for index in nearest[:, 0].tolist()]
    table = pa.table(
        {
            "pair": list(range(len(synthetic))),
            "image": pa.array(files, pa.string()),
            "start_image": [pairs.ids[index] for index in synthetic.start_images.tolist()],
            "start_caption": [pairs.captions[index] for index in synthetic.start_captions.tolist()],
            "nearest_captions": [[pairs.captions[index] for index in row] for row in nearest.tolist()],
            "cosines": cosines.tolist(),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    record.write("pairs.parquet", buffer.getvalue())
    if synthetic.pixels is not None:
        for file, pixels in zip(files, synthetic.pixels, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
            record.write(str(file), buffer.getvalue())
    return first


def nearest_captions(
    text_features: Float[Tensor, "N e"], real: CaptionRows, count: int = NEAREST
) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Indices and cosines of the real captions nearest to each text, nearest first; memory does not grow with C."""
    rows = to_sphere(text_features.float())
    indices = torch.empty(len(rows), 0, dtype=torch.long)
    cosines = torch.empty(len(rows), 0)
    for number, shard in enumerate(real.shards):
        part = rows @ to_sphere(shard.float()).T
        found = part.topk(min(count, part.shape[1]), dim=1)
        cosines = torch.cat([cosines, found.values], dim=1)
        indices = torch.cat([indices, found.indices + number * real.per_shard], dim=1)
        order = cosines.argsort(dim=1, descending=True)[:, :count]
        cosines, indices = cosines.gather(1, order), indices.gather(1, order)
    return indices, cosines
