from pathlib import Path

import pytest

import raydd
from raydd.data.checking import check_on_threads
from raydd.data.images import FileImage
from raydd.errors import DataError
from raydd.settings import with_settings
from trainables import features
from trainables.features import shared_by_workers


@pytest.mark.slow
def test_the_cluster_s_cpus_find_what_this_process_does(config, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "IMAGES", 5)
    root = Path(config.data.root)
    (root / "images" / "val1.png").write_bytes(b"no picture")
    images = [FileImage(path.name, str(path)) for path in sorted((root / "images").iterdir())]
    with shared_by_workers(raydd.open(config)) as work:
        assert list(features.check_on_workers(images)) == list(check_on_threads(images))
        shared = work.data
    alone = raydd.open(with_settings(config, {"place.home": str(tmp_path / "alone")})).data
    assert shared.fingerprint == alone.fingerprint
    assert [problem.kind for problem in shared.problems] == ["unreadable image"]


def test_an_error_of_a_task_is_passed_on_as_it_is(ray_here, monkeypatch):
    told = DataError("The image a.png is gone. Put it back.")

    def judge(images):
        raise told

    monkeypatch.setattr(features, "_judge_all", judge)
    with pytest.raises(DataError) as failed:
        list(features.check_on_workers([FileImage("a.png", "/nowhere/a.png")]))
    assert str(failed.value) == str(told)
