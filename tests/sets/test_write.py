import io
import json

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from written_sets import TEXTS, folder_of, made, saved

from raydd.data import CaptionRows
from raydd.sets.write import nearest_captions


def test_a_reader_without_raydd_sees_images_captions_and_what_made_them(tmp_path):
    synthetic = made()
    folder = folder_of(saved(tmp_path, synthetic))
    rows = pq.read_table(io.BytesIO((folder / "pairs.parquet").read_bytes())).to_pylist()
    assert synthetic.pixels is not None
    for row, pixels in zip(rows, synthetic.pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / row["image"])), pixels.permute(1, 2, 0).numpy())
        assert row["cosines"] == sorted(row["cosines"], reverse=True)
        assert len(row["nearest_captions"]) == 5
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["first_captions"] == [row["nearest_captions"][0] for row in rows[:3]]
    assert (facts["protocol"], facts["encoders"]["text"]["name"], facts["pairs"]) == ("heads", "minilm", 4)


def test_features_alone_name_no_image(tmp_path):
    folder = folder_of(saved(tmp_path, made(pixels=False)))
    assert pq.read_table(folder / "pairs.parquet")["image"].to_pylist() == [None] * 4
    assert not (folder / "images").exists()


def test_the_nearest_captions_of_shards_are_those_of_all_at_once():
    generator = torch.Generator().manual_seed(0)
    texts, features = torch.randn(len(TEXTS), 3, generator=generator).half(), torch.randn(4, 3, generator=generator)
    found, cosines = nearest_captions(features, CaptionRows((texts[:3], texts[3:6], texts[6:]), 3), count=2)
    all_cosines = torch.nn.functional.cosine_similarity(features[:, None], texts.float()[None], dim=-1)
    assert torch.allclose(cosines, all_cosines.topk(2, dim=1).values)
    assert torch.equal(found, all_cosines.topk(2, dim=1).indices)
