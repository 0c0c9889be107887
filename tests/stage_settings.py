"""Settings of a whole run that takes a second: some pictures, encoders of some hundred weights."""

from typing import Any

from raydd.progress import Progress

TINY: dict[str, Any] = {
    "data.reader": "flat-json",
    "data.name": "tiny",
    "encoders.image": "tiny_encoders:image",
    "encoders.text": "tiny_encoders:text",
    "features.views": 2,
    "experts.count": 2,
    "experts.epochs": 3,
    "experts.batch_size": 8,
    "distill.pairs": 6,
    "distill.minibatch": 3,
    "distill.student_steps": 3,
    "distill.rank": 2,
    "distill.steps": 8,
    "distill.target_epochs": 2,
    "distill.max_start_epoch": 1,
    "distill.checkpoint_every": 3,
    "pixels.steps": 4,
    "students.epochs": 4,
    "evaluate.seeds": 2,
    "place.threads": 1,
}


class Work:
    """What the stages say they did."""

    def __init__(self) -> None:
        self.done: dict[str, list[int]] = {}

    def __call__(self, work: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.done.setdefault(work, []).append(done)


def interrupt_at(step: int) -> Progress:
    """Interrupts a distillation after so many steps, as Ctrl-C does: with no time to keep its state."""

    def interrupt(work: str, done: int, total: int) -> None:
        if work == "distillation steps" and done == step:
            raise KeyboardInterrupt

    return interrupt
