"""The model that MLflow stores for a final: a student that finds images by captions and captions by images.

MLflow copies this file next to the student's weights and runs the copy when it loads the model, so nothing is pickled.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from torch import Tensor

NAMED = ("encoders.image", "encoders.text")
TOP = 10  # default number of results for each query
COLUMNS = ("query", "rank", "found", "cosine")


class Retriever(PythonModel):
    """Takes a table of images and captions; gives the nearest images of each caption and captions of each image."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the student's heads, and by name the encoders that it was trained on.

        Raises:
            ConfigError: an encoder comes from outside raydd, and `model_config` does not name it as trusted.
        """
        from safetensors.torch import load_file

        from raydd.data.encoders import load_image_encoder, load_text_encoder
        from raydd.outside import require_trusted
        from raydd.protocols.student_modules import head_of
        from raydd.settings import load

        encoder_settings = json.loads(Path(context.artifacts["encoders"]).read_text(encoding="utf-8"))
        trusted = {name: value for name, value in (context.model_config or {}).items() if value}
        flag = 'load_model(..., model_config=...) with "{setting}": "{name}"'
        require_trusted({name: encoder_settings[name] for name in NAMED}, trusted, "The model", flag)
        encoders = load(settings={**encoder_settings, **trusted}).encoders
        self._image, self._text = load_image_encoder(encoders), load_text_encoder(encoders)
        weights = load_file(context.artifacts["heads"])
        self._image_head, self._text_head = head_of("image", weights), head_of("text", weights)

    def predict(
        self,
        context: Any,  # noqa: ARG002  # MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Rank all images of the table for each caption in it, and all captions for each image.

        Args:
            context: MLflow's context, not used here; `load_context` has read it.
            model_input: columns `image` (paths) and `caption`; either may be None in a row.
            params: `top`, the number of results for each query.

        Returns:
            Columns `query`, `rank` from 1, `found` and `cosine`.
        """
        images, captions = (list(dict.fromkeys(model_input[name].dropna())) for name in ("image", "caption"))
        if not images or not captions:
            return pd.DataFrame([], columns=COLUMNS)
        top, cosines = int((params or {}).get("top", TOP)), self._embed_texts(captions) @ self._embed_images(images).T
        results = [*_nearest(captions, images, cosines, top), *_nearest(images, captions, cosines.T, top)]
        return pd.DataFrame(results, columns=COLUMNS)

    def _embed_images(self, paths: Sequence[str]) -> Tensor:
        import torch

        from raydd.data.augment import transform_of
        from raydd.data.encoding import ViewsOf, batches_of, encode_views
        from raydd.data.images import FileImage
        from raydd.distill.heads import embed

        views = ViewsOf([FileImage(path, path) for path in paths], transform_of("none", self._image.size), 1, 0)
        batches = batches_of(range(len(views)), 32)
        features = [batch[:, 0].float() for batch in encode_views(self._image, views, batches, device="cpu", workers=0)]
        return embed(self._image_head, torch.cat(features))

    def _embed_texts(self, captions: Sequence[str]) -> Tensor:
        from raydd.distill.heads import embed

        return embed(self._text_head, self._text.encode(captions).float().cpu())


def _nearest(queries: Sequence[str], candidates: Sequence[str], cosines: Tensor, top: int) -> list[tuple[Any, ...]]:
    best = cosines.topk(min(top, len(candidates)), dim=1)
    return [
        (query, position + 1, candidates[number], value)
        for query, numbers, values in zip(queries, best.indices.tolist(), best.values.tolist(), strict=True)
        for position, (number, value) in enumerate(zip(numbers, values, strict=True))
    ]


set_model(Retriever())
