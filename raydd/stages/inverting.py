"""Searches for pixels that have distilled features, batch by batch; each finished batch is kept in the store."""

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raydd.device import on_all_cores
from raydd.distill.inversion import pixels_of_features
from raydd.distill.synthetic import SyntheticSet
from raydd.protocols import Workbench
from raydd.sets.read import load_synthetic
from raydd.store import Record

VERSION = 5  # 3: shorter memories of Adam; 4: files sealed to their place; 5: shorter ones still, another schedule


def invert_features(work: Workbench[Any], features_record: Record) -> SyntheticSet:
    """Return a features set with pixels found for its features.

    The image features of the returned set are those that the encoder gives for the found pixels. On a CPU, several
    batches are searched side by side.
    """
    settings, image_size, device = work.config.pixels, work.config.distill.image_size, work.device
    content = {"steps": settings.steps, "lr": settings.lr, **({"image_size": image_size} if image_size else {})}
    upstream = {"features_set": features_record.fingerprint}
    record = Record.of(work.store, "pixels", content, upstream, version=VERSION)
    synthetic = load_synthetic(features_record)
    start_pixels, size = work.start_pixels(synthetic, image_size), work.images_at_once
    step_numbers, total = itertools.count(1), settings.steps * len(start_pixels)

    def report_steps(images: int) -> None:
        for _ in range(images):
            work.progress("pixel steps", next(step_numbers), total)

    def file_of(begin: int) -> str:
        return f"from-{begin:04}-by-{size}.safetensors"

    def search_batch(begin: int) -> dict[str, Tensor]:
        name, pixels = file_of(begin), start_pixels[begin : begin + size]
        if not record.has(name):
            found_pixels = pixels_of_features(
                pixels.to(device),
                synthetic.image_features[begin : begin + size].to(device),
                work.encode_learned,
                steps=settings.steps,
                lr=settings.lr,
                on_step=lambda _: report_steps(len(pixels)),
            )
            with torch.no_grad():
                features = work.encode_learned(found_pixels.float() / 255)
            record.write_tensors(name, {"pixels": found_pixels.cpu(), "features": features.float().cpu()})
        return record.read_tensors(name)

    begins = range(0, len(start_pixels), size)
    if not all(record.has(file_of(begin)) for begin in begins):
        _ = work.image_encoder.fast  # before the threads, each of which would load and pack it
    batches = on_all_cores(search_batch, begins, device)
    return replace(
        synthetic,
        pixels=torch.cat([batch["pixels"] for batch in batches]),
        image_features=torch.cat([batch["features"] for batch in batches]),
    )
