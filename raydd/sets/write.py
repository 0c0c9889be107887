"""Writes a synthetic set to disk: tensors, files that are readable without raydd, and the manifest."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from raydd.data import CaptionRows, Pairs
from raydd.distill.heads import to_sphere
from raydd.distill.synthetic import SyntheticSet
from raydd.sets.provenance import Provenance
from raydd.store import Record

NEAREST_CAPTIONS = 5  # captions listed for each text feature
FIRST_CAPTIONS = 3  # captions listed in the manifest, those of the first pairs
SET, PAIRS = "synthetic.safetensors", "pairs.parquet"
IMAGES = "images/*.png"  # all image files of a set, see `image_file`


def write_set(
    record: Record, synthetic: SyntheticSet, provenance: Provenance, texts: CaptionRows, pairs: Pairs
) -> None:
    """Write a finished set. The manifest is written last and completes the record.

    `synthetic.safetensors` has the tensors, `pairs.parquet` has a row per pair (see `pairs_table`). A set with pixels
    also has its images as `images/000.png` and so on. The facts of the manifest are the provenance and, under `set`,
    whatever the tensors do not say.

    Args:
        record: the record to write.
        synthetic: the set.
        provenance: the provenance of the set; the first captions are added here.
        texts: features of the training captions.
        pairs: the training pairs that the set started from.
    """
    table = pairs_table(synthetic, texts, pairs)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    record.write(PAIRS, buffer.getvalue())
    if synthetic.pixels is not None:
        for file, pixels in zip(table["image"].to_pylist(), synthetic.pixels, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
            record.write(file, buffer.getvalue())
    record.write_tensors(SET, synthetic.tensors(), synthetic.facts())
    first_captions = tuple(captions[0] for captions in table["nearest_captions"].to_pylist()[:FIRST_CAPTIONS])
    complete_provenance = replace(provenance, first_captions=first_captions)
    record.finish(facts={"set": synthetic.facts(), **complete_provenance.as_json()})


def pairs_table(synthetic: SyntheticSet, texts: CaptionRows, pairs: Pairs) -> pa.Table:
    """Return a table with a row for each pair.

    Columns: the pair's number, its image file (null if only features were learned), image id and caption of the real
    pair that it started from, and the real captions nearest to its text feature with their cosines, nearest first.
    """
    nearest, cosines = nearest_captions(synthetic.text_features, texts)
    numbers = range(len(synthetic))
    return pa.table(
        {
            "pair": pa.array(numbers, pa.int64()),
            "image": pa.array([image_file(n) if synthetic.pixels is not None else None for n in numbers], pa.string()),
            "start_image": [pairs.ids[index] for index in synthetic.start_images.tolist()],
            "start_caption": [pairs.captions[index] for index in synthetic.start_captions.tolist()],
            "nearest_captions": [[pairs.captions[index] for index in row] for row in nearest.tolist()],
            "cosines": cosines.tolist(),
        }
    )


def image_file(number: int) -> str:
    """Return the name of a pair's image file in the folder of a set or of an export."""
    return IMAGES.replace("*", f"{number:03}")


def nearest_captions(
    text_features: Float[Tensor, "N e"], real: CaptionRows, count: int = NEAREST_CAPTIONS
) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Return indices and cosines of the real captions nearest to each text, nearest first.

    Memory does not grow with the number of real captions.
    """
    rows = to_sphere(text_features.float())
    indices = torch.empty(len(rows), 0, dtype=torch.long)
    cosines = torch.empty(len(rows), 0)
    for number, shard in enumerate(real.shards):
        similarity = rows @ to_sphere(shard.float()).T
        nearest = similarity.topk(min(count, similarity.shape[1]), dim=1)
        cosines = torch.cat([cosines, nearest.values], dim=1)
        indices = torch.cat([indices, nearest.indices + number * real.per_shard], dim=1)
        order = cosines.argsort(dim=1, descending=True)[:, :count]
        cosines, indices = cosines.gather(1, order), indices.gather(1, order)
    return indices, cosines
