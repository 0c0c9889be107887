import pytest
from small_distillations import begin
from small_pairs import Split

from raydd.distill.experts import Experts


def ends(train_split: Split, experts: Experts, **changes: int) -> dict[str, float]:
    """Each head's own part of the loss of the first step."""
    metrics = begin(train_split, experts, **changes).step()
    return {side: metrics[f"loss/{side}"] for side in ("image", "text")}


def test_each_head_has_the_target_of_its_own_epochs(train_split: Split, experts: Experts):
    near, far = (ends(train_split, experts, target_epochs=epochs) for epochs in (1, 2))
    apart = ends(train_split, experts, target_epochs=2, text_target_epochs=1)
    assert apart == {"image": pytest.approx(far["image"]), "text": pytest.approx(near["text"])}
    assert near["text"] != pytest.approx(far["text"])
