"""The published cleaning of captions, as the code of BLIP, LoRS and RepBlend does it before the text encoder."""

import re

_MARKS = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s+")


def clean_caption(caption: str, max_words: int) -> str:
    """A caption in lower case, the marks . ! " ( ) * # : ; ~ as spaces, single spaces, cut after `max_words` words.

    The published runs cut at 60 words in training, and at 60 (Flickr30k) or 30 (COCO) in evaluation.

    >>> clean_caption("Two dogs (one black): running!", 4)
    'two dogs one black'
    """
    words = _SPACES.sub(" ", _MARKS.sub(" ", caption.lower())).strip().split(" ")
    return " ".join(words[:max_words])
