"""Image-caption pairs on their way to features: readers, checks, frozen encoders, and the feature cache."""

from raydd.data.images import ImageSource, open_image
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.pairs import DataSet, Pairs, load_data

__all__ = ["DataSet", "Entry", "ImageSource", "Listing", "Pairs", "Problem", "load_data", "open_image"]
