"""The metadata of a data card, as the hub takes them."""

import pytest

from raydd.export.cards import licence_of


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("stamps", "gpl-2.0"),
        ("postal stamps 1920", "unknown"),
        ("flickr8k", "other"),
        ("coco_karpathy", "other"),
        ("coco2014", "other"),
        ("coconut-pictures", "unknown"),
        ("mine", "unknown"),
    ],
)
def test_licences_go_by_the_data(data: str, word: str):
    assert licence_of(data)[0] == {"license": word}
    assert licence_of(data, "CC-BY-4.0")[0] == {"license": "cc-by-4.0"}


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
    found, sentence = licence_of("mine", stated)
    assert found == metadata
    assert sentence.startswith(f"{stated}, as stated")
