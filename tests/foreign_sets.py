"""Sets in the layouts of other code, with their descriptions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
LOW_RANK = {name: f"similarity_params.{n}" for n, name in enumerate(("diagonal", "left", "right"))}


def write(folder: Path, content: Mapping[str, Any], suffix: str = ".pt", **said: Any) -> Path:
    """A file of this content and its description, whose path is given; a field of None is left out."""
    path = folder / f"distilled_3000{suffix}"
    if suffix == ".pt":
        torch.save(dict(content), path)
    elif suffix == ".npz":
        np.savez(path, **{name: np.asarray(value) for name, value in content.items()})
    else:
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    described = {"file": path.name, **said}
    description = folder / f"set{suffix}.yaml"
    description.write_text(yaml.safe_dump({name: value for name, value in described.items() if value is not None}))
    return description


def like_lors(pairs: int = 4, side: int = 16, text: int = 10, rank: int = 2) -> dict[str, Any]:
    """What LoRS and RepBlend save, of noise: the parameters of the similarity are those of a trained one."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(pairs, rank, generator=draw) for _ in range(2))
    return {
        "image": torch.randn(pairs, 3, side, side, generator=draw),
        "text": torch.randn(pairs, text, generator=draw),
        "similarity_params": [torch.ones(pairs), left, right],
        "similarity_mat": torch.eye(pairs) + 3 / rank * left @ right.T,
        "syn_lr_img": torch.tensor(0.1),
        "syn_lr_txt": torch.tensor(0.2),
    }


def said_of_lors(text: str = "tiny_encoders:text") -> dict[str, Any]:
    """The description of `like_lors`."""
    return {
        "images": {"key": "image", "are": "normalised", "mean": MEAN, "std": STD},
        "texts": {"key": "text", "are": "features", "of": text},
        "similarity": {**LOW_RANK, "alpha": 3},
        "rates": {"image": "syn_lr_img", "text": "syn_lr_txt"},
        "loss": "wbce",
    }
