"""The metadata of a data card, as the hub takes them."""

from pathlib import Path

import pytest
import yaml
from written_sets import saved

from raydd.export.cards import card, licence_of, size_category
from raydd.sets.read import set_of_record
from raydd.settings import load


@pytest.mark.parametrize(
    ("data", "reader", "word"),
    [
        ("stamps", "stamps", "gpl-2.0"),
        ("pictures", "stamps", "gpl-2.0"),
        ("stamps", "flat-json", "unknown"),
        ("stamps", "mine.py:stamps", "unknown"),
        ("postal stamps 1920", "csv", "unknown"),
        ("flickr8k", "karpathy", "other"),
        ("coco_karpathy", "karpathy", "other"),
        ("coco2014", "coco", "other"),
        ("coconut-pictures", "coco", "unknown"),
        ("mine", "csv", "unknown"),
    ],
)
def test_licences_go_by_the_data(data: str, reader: str, word: str):
    assert licence_of(data, reader)[0] == {"license": word}
    assert licence_of(data, reader, "CC-BY-4.0")[0] == {"license": "cc-by-4.0"}


@pytest.mark.parametrize(
    ("stated", "metadata"),
    [
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("MIT", {"license": "mit"}),
        ("GPL-2.0-or-later", {"license": "other", "license_name": "gpl-2.0-or-later"}),
        ("For research only, ask me!", {"license": "other", "license_name": "for-research-only-ask-me"}),
        ("研究用", {"license": "other"}),
    ],
)
def test_a_stated_licence_is_an_identifier_of_the_hub_s_or_other_with_a_name(stated: str, metadata: dict[str, str]):
    found, sentence = licence_of("mine", "csv", stated)
    assert found == metadata
    assert sentence.startswith(f"{stated}, as stated")


@pytest.mark.parametrize(("reader", "word"), [("stamps", "gpl-2.0"), ("flat-json", "unknown")])
def test_a_card_has_the_licence_of_the_reader_that_made_the_set(tmp_path: Path, reader: str, word: str):
    settings = load(settings={"distill.pairs": 4, "distill.rank": 2, "data.reader": reader, "data.root": "."})
    text = card(set_of_record(saved(tmp_path, settings=settings)), {}, files={}, reading_code="")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == word


@pytest.mark.parametrize(
    ("pairs", "category"),
    [(4, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10_000_000, "10M<n<100M")],
)
def test_the_size_is_a_category_of_the_hub_s(pairs: int, category: str):
    assert size_category(pairs) == category
