"""Encode a data set: every image once (train in K augmented views) and every caption, into the feature cache."""

from dataclasses import dataclass

from rich.console import Console

from raydd import cli


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Make the feature cache."""

    workers: int = 0
    """Ray workers to share the data set among; 0 encodes in this process, without Ray."""
    gpus: float = 0.0
    """GPUs of each worker, fractions allowed."""


def main(options: Options) -> int:
    """Make the features record and say what it holds."""
    from raydd.console import progress_on
    from raydd.place import open_store, use_threads
    from raydd.stages import features, pairs

    config = options.settings
    use_threads(config.place)
    store, console = open_store(config.place), Console()
    with progress_on() as progress:
        for line in pairs(config, store, progress).summary():
            console.print(line)
        if options.workers:
            from trainables.features import make_features

            make_features(config, workers=options.workers, gpus=options.gpus, progress=progress)
        cached = features(config, store, progress)
    images, views, width = cached.train.images.shape
    console.print(
        f"features {cached.fingerprint}: {images} training images x {views} views, {width} wide; "
        f"{len(cached.train.texts)} captions, {cached.text_width} wide. Kept in {store.root}.",
        soft_wrap=True,
    )
    return 0
