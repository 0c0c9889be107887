"""The first check of a data set's images by Ray tasks: every image read, hashed and decoded once, on all nodes."""

from collections.abc import Iterator, Sequence

from raydd.data.checking import Judged, judge
from raydd.data.images import ImageSource

IMAGES = 128  # of a task: seconds of work, so that a lost node costs little


def check_on_workers(images: Sequence[ImageSource]) -> Iterator[Judged]:
    """Judge images on the CPUs of the cluster that this process is connected to, in their order."""
    import ray

    task = ray.remote(num_cpus=1)(_judge_all)
    parts = [images[start : start + IMAGES] for start in range(0, len(images), IMAGES)]
    for judged in ray.get([task.remote(part) for part in parts]):
        yield from judged


def _judge_all(images: Sequence[ImageSource]) -> list[Judged]:
    return [judge(image) for image in images]
