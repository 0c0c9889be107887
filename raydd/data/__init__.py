"""Turns image-caption pairs into features: readers, checks, frozen encoders, and the feature cache."""

from raydd.data.augment import open_pixels
from raydd.data.encoders import ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder
from raydd.data.encoding import ViewsOf, open_views
from raydd.data.feature_rows import CaptionRows, FeatureRows
from raydd.data.feature_shards import shards_of, write_images, write_texts
from raydd.data.features import (
    FeatureRecords,
    Features,
    HeldOut,
    SplitFeatures,
    encode_images,
    feature_records,
    open_features,
    open_held_out,
)
from raydd.data.images import ImageSource, open_image
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.pairs import DataSet, Pairs, load_data, open_data
from raydd.data.texts import CaptionFeatures, Texts, encode_texts, texts_record

__all__ = [
    "CaptionFeatures",
    "CaptionRows",
    "DataSet",
    "Entry",
    "FeatureRecords",
    "FeatureRows",
    "Features",
    "HeldOut",
    "ImageEncoder",
    "ImageSource",
    "Listing",
    "Pairs",
    "Problem",
    "SplitFeatures",
    "TextEncoder",
    "Texts",
    "ViewsOf",
    "encode_images",
    "encode_texts",
    "feature_records",
    "load_data",
    "load_image_encoder",
    "load_text_encoder",
    "open_data",
    "open_features",
    "open_held_out",
    "open_image",
    "open_pixels",
    "open_views",
    "shards_of",
    "texts_record",
    "write_images",
    "write_texts",
]
