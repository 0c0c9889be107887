import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.data.judging import clean_caption


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("Two dogs (one black): running!", "two dogs one black running"),
        ('A "STOP" sign. It\'s red; #1~', "a stop sign it's red 1"),
        ("  a man ,  with a hat . ", "a man , with a hat"),
        ("...", ""),
        ("", ""),
    ],
)
def test_published_cleaning(caption: str, cleaned: str) -> None:
    assert clean_caption(caption, 60) == cleaned


def test_words_after_the_limit_go() -> None:
    assert clean_caption("One two three. Four", 3) == "one two three"


@given(st.text(), st.integers(1, 60))
def test_cleaning_twice_is_cleaning_once(caption: str, max_words: int) -> None:
    once = clean_caption(caption, max_words)
    assert clean_caption(once, max_words) == once
    assert len(once.split(" ")) <= max_words
