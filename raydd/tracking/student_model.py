"""Writes a final's student as an MLflow model: heads as safetensors, encoders by name, `retriever.py` as code."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from raydd.code_version import VERSION
from raydd.config import EncodersConfig

_CODE = Path(__file__).with_name("retriever.py")


def write_model(folder: Path, heads: Mapping[str, Tensor], encoders: EncodersConfig) -> None:
    """Write a folder that `mlflow.pyfunc.load_model` reads.

    Args:
        folder: where to write; it must not exist.
        heads: parameters of both heads, named as by `raydd.protocols.student_modules.head_tensors`.
        encoders: the frozen encoders that they were trained on.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from safetensors.torch import save_file

    from raydd.tracking.retriever import COLUMNS, NAMED, TOP

    column_types = (DataType.string, DataType.long, DataType.string, DataType.double)
    signature = ModelSignature(
        Schema([ColSpec(DataType.string, name, required=False) for name in ("image", "caption")]),
        Schema([ColSpec(column_type, name) for column_type, name in zip(column_types, COLUMNS, strict=True)]),
        ParamSchema([ParamSpec("top", DataType.long, TOP)]),
    )
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / name for name in ("heads.safetensors", "encoders.json")}
        save_file(dict(heads), files["heads.safetensors"])
        encoder_settings = {f"encoders.{name}": value for name, value in asdict(encoders).items()}
        files["encoders.json"].write_text(json.dumps(encoder_settings, indent=2))
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(_CODE),
            artifacts={name.partition(".")[0]: str(file) for name, file in files.items()},
            signature=signature,
            input_example=pd.DataFrame({"image": ["photographs/1.jpg"], "caption": ["A dog runs over grass."]}),
            model_config=dict.fromkeys(NAMED, ""),  # keys that `load_model` accepts; see `Retriever.load_context`
            pip_requirements=[f"raydd=={VERSION}"],  # without this MLflow would load the model to find its imports
        )
