"""Nothing is chosen on test: another test split leaves every choice, rate, epoch, trial and record name as it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config
from raydd.protocols import Workbench
from raydd.settings import load
from raydd.store import Store
from trainables.distill import distillation_reports

PROTOCOLS = {
    "heads": {"distill.images": "features", "evaluate.baselines": ["random", "herding", "full"]},
    "encoder": {"distill.protocol": "encoder", "distill.steps": 2},
}


@pytest.fixture(params=PROTOCOLS)
def config(request: pytest.FixtureRequest, tiny_data: Path) -> Config:
    return load(settings={**TINY, **PROTOCOLS[request.param], "data.root": str(tiny_data), "students.epochs": 2})


def with_other_test(work: Workbench[Any], permuted: bool) -> Workbench[Any]:
    """The same run, whose test split is permuted, or is another one: captions reversed, features by chance."""
    data, opened = work.data, work.opened
    test, texts = data.test, work.captions.test
    order = torch.arange(len(texts.texts)).roll(3 if permuted else 0)
    rows = texts.texts.whole()[order] if permuted else torch.randn(texts.texts.whole().shape).half()
    captions = replace(work.captions, test=replace(texts, texts=_Rows(rows)))
    other = replace(data, test=replace(test, images=tuple(reversed(test.images))))
    for key in list(opened._values):
        kind = key[0] if isinstance(key, tuple) else key
        if kind == "data":
            opened._values[key] = other
        elif kind == "captions":
            opened._values[key] = captions
    if hasattr(work, "held_out"):
        held_out = work.held_out  # type: ignore[attr-defined]
        images = held_out.test.images
        flipped = images.gather(torch.arange(images.shape[0]), 0).flip(0)
        split = replace(held_out.test, images=_Images(flipped), texts=captions.test.texts)
        (key,) = [key for key in opened._values if isinstance(key, tuple) and key[0] == "held out"]
        opened._values[key] = replace(held_out, test=split)
    return work


class _Rows:
    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.rows[index]

    def whole(self) -> torch.Tensor:
        return self.rows


class _Images:
    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape = rows, (len(rows), 1, rows.shape[1])

    def gather(self, rows: torch.Tensor, views: int) -> torch.Tensor:
        return self.rows[rows]


def everything(work: Workbench[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was chosen, made and named in a run; and the scores on test."""
    trial = list(distillation_reports(work))
    rows = stages.run(work)
    chosen: dict[str, Any] = {
        "trial": [(report.r_mean, report.step, report.bytes, report.record) for report in trial],
        "val": stages.synthetic_scores(work, "val"),
        "rates": [stages.final_synthetic(work).rate_image, stages.final_synthetic(work).rate_text],
        "set": {name: part.tolist() for name, part in stages.final_synthetic(work).tensors().items()},
    }
    folder = Path(work.store.root)
    for manifest in sorted(folder.glob("*/*/manifest.json")):
        stage, name = manifest.parts[-3:-1]
        content = json.loads(manifest.read_text())
        facts = content.get("facts", {})
        told = {name: facts[name] for name in ("learning_rates", "epoch", "chosen_on") if name in facts}
        chosen[f"{stage}/{name}"] = content["settings"], content["upstream"], told
    test = {name: rows[name]["r_mean"]["seeds"] for name in ("synthetic", *work.config.evaluate.baselines)}
    return chosen, test


def test_another_test_split_changes_no_choice_and_no_name(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    chosen, scores = everything(raydd.open(config, Store(tmp_path / "as it is")))
    assert sum("scores/" in name for name in chosen) == 2 + len(config.evaluate.baselines)
    for permuted in (True, False):
        work = with_other_test(raydd.open(config, Store(tmp_path / f"other {permuted}")), permuted)
        again, others = everything(work)
        assert again == chosen
        assert others != scores  # else the split was not another one
