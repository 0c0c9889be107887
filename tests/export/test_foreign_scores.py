"""Sets of other code scored: as raydd's own are, under either protocol, and refused where they cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_sets import LOW_RANK, MEAN, STD, like_lors, said_of_lors, write
from made_sets import ENCODERS, Made, flags, made_set, trained_set

from raydd.cli import main
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError
from raydd.export.scoring import score_foreign, score_set
from raydd.sets.foreign import read_foreign
from raydd.sets.read import open_set
from raydd.settings import with_settings


def alone(made: Made, **changes: Any) -> Any:
    return with_settings(made.config, {"evaluate.baselines": (), **changes})


def as_lors_saves(synthetic: SyntheticSet) -> dict[str, Any]:
    """A set of raydd's in the layout of LoRS: normalised images, or features where there are no pixels."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    pixels = synthetic.pixels
    return {
        "image": synthetic.image_features if pixels is None else (pixels.double() / 255 - mean) / std,
        "text": synthetic.text_features,
        "similarity_params": [synthetic.similarity.factors[name] for name in LOW_RANK],
        "syn_lr_img": torch.tensor(synthetic.rate_image, dtype=torch.float64),
        "syn_lr_txt": torch.tensor(synthetic.rate_text, dtype=torch.float64),
    }


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("which", ["features", "pixels", "encoder"])
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_a_set_in_another_layout_has_the_scores_that_it_has_as_raydd_s(
    tmp_path: Path, which: str, split: str, suffix: str
):
    made = trained_set() if which == "encoder" else made_set("features" if which == "features" else "pixels")
    opened = open_set(made.folder)
    config = alone(made, **{"evaluate.split": split, "evaluate.seeds": 3})
    content, said = as_lors_saves(opened.synthetic), said_of_lors() | {"loss": opened.synthetic.loss}
    said["similarity"] = {**LOW_RANK, "alpha": opened.synthetic.similarity.alpha}
    if which == "features":
        said["images"] = {"key": "image", "are": "features", "of": "tiny_encoders:image"}
    if suffix == ".npz":
        content |= dict(zip(("a", "l", "r"), content.pop("similarity_params"), strict=True))
        said["similarity"] |= {"diagonal": "a", "left": "l", "right": "r"}
    own = score_set(config, made.store, opened).as_json()["retrieval"]["synthetic"]
    foreign = score_foreign(config, made.store, read_foreign(write(tmp_path, content, suffix, **said)))
    for metric, found in foreign.as_json()["retrieval"]["synthetic"].items():
        assert found["seeds"] == pytest.approx(own[metric]["seeds"], abs=1e-6), metric
    assert foreign.row.scores["r_mean"] == pytest.approx((own["r_mean"]["mean"], own["r_mean"]["std"]), abs=1e-4)
    assert len(set(own["r_mean"]["seeds"])) > 1  # students that see nothing would all score alike


def test_captions_and_images_of_another_size_go_through_the_encoders(tmp_path: Path):
    made = made_set("features")
    content = like_lors(side=24) | {"text": ["a", "bb", "ccc", "dddd"]}
    said = said_of_lors() | {"texts": {"key": "text", "are": "captions"}, "similarity": "none"}
    found = score_foreign(alone(made), made.store, read_foreign(write(tmp_path, content, **said)))
    assert len(found.retrieval["synthetic"]) == 2
    assert found.row.pairs == 4


@pytest.mark.parametrize(
    ("settings", "said", "why"),
    [
        (
            {},
            {"texts": {"key": "text", "are": "features", "of": "bert"}},
            r"text features of bert, but encoders.text is",
        ),
        ({}, {"images": {"key": "text", "are": "features", "of": "tiny_encoders:wide"}}, "Give --encoders.image tiny"),
        ({}, {"images": {"key": "text", "are": "features", "of": "tiny_encoders:image"}}, r"\[4 10\], but .* \[4 24\]"),
        (
            {},
            {"texts": {"key": "wide", "are": "features", "of": "tiny_encoders:text"}},
            r"text features \[4 11\].* \[4 10\]",
        ),
        ({"evaluate.encoders": ("tiny_encoders:wide",)}, {}, "evaluate.encoders is for sets that raydd made"),
        (
            {"distill.protocol": "encoder", "distill.images": "pixels"},
            {"images": {"key": "text", "are": "features", "of": "tiny_encoders:image"}},
            "but under distill.protocol encoder students train the image encoder",
        ),
    ],
)
def test_features_of_other_encoders_are_refused(tmp_path: Path, settings: Any, said: Any, why: str):
    made = made_set("features")
    content = like_lors() | {"wide": torch.zeros(4, 11)}
    with pytest.raises(ConfigError, match=why):
        score_foreign(
            alone(made, **settings), made.store, read_foreign(write(tmp_path, content, **(said_of_lors() | said)))
        )


def test_the_command_prints_and_writes_the_scores_with_a_row_of_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = made_set("features")
    description = write(
        tmp_path, like_lors(), **said_of_lors(), name="LoRS again", source="https://example.org/lors.pt"
    )
    asked = ["evaluate", "--outside", str(description), "--json", str(tmp_path / "out.json")]
    assert main([*asked, *flags(made), "--distill.minibatch", "6", "--evaluate.baselines", "random"]) == 0
    assert "LoRS again, 4 pairs on tiny" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["retrieval"]) == {"synthetic", "random"}
    assert found["row"]["source"] == "https://example.org/lors.pt"
    assert found["row"]["scores"]["r_mean"][0] == pytest.approx(found["retrieval"]["synthetic"]["r_mean"]["mean"])
    assert main([*asked, "--set", str(made.folder), *ENCODERS]) == 2
    assert "--set and --outside are both given" in capsys.readouterr().err
