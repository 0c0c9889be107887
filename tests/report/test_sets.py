"""The parts of the page of a set that need its experts."""

import shutil
from pathlib import Path

import pytest
from made_sets import Made, made_set

from raydd.errors import ConfigError
from raydd.progress import silent
from raydd.report.making import report_of_set
from raydd.report.sets import PageOptions
from raydd.settings import with_settings


def copied(made: Made, folder: Path) -> Path:
    """The set in a folder of its own, without its store."""
    shutil.copytree(made.folder, folder / "downloads" / "set")
    return folder / "downloads" / "set"


def test_a_copied_set_has_its_maps_from_the_store_that_the_settings_name(tmp_path: Path):
    made = made_set("features")
    page = report_of_set(copied(made, tmp_path), made.config, PageOptions(frames=2), silent)
    assert page.maps
    assert page.collapse_table
    assert page.film


def test_a_page_without_the_experts_says_so_and_refuses_a_film(tmp_path: Path):
    made = made_set("features")
    config = with_settings(made.config, {"place.home": str(tmp_path), "evaluate.baselines": ()})
    page = report_of_set(copied(made, tmp_path), config, PageOptions(), silent)
    assert not page.maps
    assert page.facts["embedding maps"] == "left out, since the store lacks the experts of the set"
    with pytest.raises(ConfigError, match=rf"the experts \w+, which are not in the store {tmp_path}/store"):
        report_of_set(made.folder, config, PageOptions(frames=2), silent)
