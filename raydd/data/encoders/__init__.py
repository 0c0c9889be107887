"""Frozen image and text encoders by name. Only this package imports timm, open_clip and transformers, when needed."""

from raydd.data.encoders.registry import (
    IMAGE_ENCODERS,
    TEXT_ENCODERS,
    image_identity,
    load_image_encoder,
    load_text_encoder,
    text_identity,
)
from raydd.data.encoders.towers import ImageEncoder, ImageTower, TextEncoder, TextTower, resized

__all__ = [
    "IMAGE_ENCODERS",
    "TEXT_ENCODERS",
    "ImageEncoder",
    "ImageTower",
    "TextEncoder",
    "TextTower",
    "image_identity",
    "load_image_encoder",
    "load_text_encoder",
    "resized",
    "text_identity",
]
