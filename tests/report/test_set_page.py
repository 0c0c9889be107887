"""The facts on the page of a set."""

from dataclasses import replace
from pathlib import Path

import pytest
from written_sets import config, saved

from raydd.report.set_page import set_page
from raydd.sets.read import set_of_record


@pytest.mark.parametrize(("stated", "shown"), [({"distill.images": "features"}, "features"), ({}, "pixels")])
def test_what_images_are_is_the_set_s_own_word_and_else_that_of_the_settings(
    tmp_path: Path, stated: dict[str, str], shown: str
):
    opened = set_of_record(saved(tmp_path))
    opened = replace(opened, provenance=replace(opened.provenance, settings=stated))
    settings = config(**{"distill.images": "pixels"})
    page = set_page(opened, settings, [], {}, title="A set", share="", command="raydd run")
    assert page.facts["images"] == shown
