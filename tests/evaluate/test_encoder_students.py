"""Students that train the image encoder: they learn what the pairs teach, each seed its own way."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from encoder_walks import SIDE, D, E, N, attention_net, conv_net

from raydd.config import StudentsConfig
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.experts import contrastive_loss
from raydd.distill.heads import Head, embed, initial_head
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError
from raydd.evaluate.encoder_students import embed_pairs, hits_of_networks, train_student
from raydd.evaluate.retrieval import retrieval_hits
from raydd.evaluate.students import FIRST_SEED

RECIPE = StudentsConfig(epochs=6, batch_size=4, dropout=0.0)
RATES = 0.05, 0.2
TEXTS = torch.randn(N, E, generator=torch.Generator().manual_seed(1))


def encoder_of(net: Callable[[], torch.nn.Module]) -> TrainedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TrainedEncoder(net(), at_once=3)


@pytest.fixture
def encoder() -> TrainedEncoder:
    return encoder_of(conv_net)


def pairs(rates: tuple[float, float] = RATES) -> SyntheticSet:
    pixels = torch.randint(0, 256, (N, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    identity, which = Similarity("identity", N, {}), torch.arange(N)
    return SyntheticSet(torch.zeros(N, D), TEXTS, identity, *rates, "infonce", which, which, pixels)


def student(encoder: TrainedEncoder, given: SyntheticSet, seed: int = 0) -> Networks:
    return train_student(encoder, given, RECIPE, temperature=0.07, seed=seed)


@pytest.mark.parametrize("make_net", [conv_net, attention_net])
def test_a_student_is_a_network_trained_by_plain_sgd(make_net: Callable[[], torch.nn.Module]) -> None:
    encoder = encoder_of(make_net)
    given, net = pairs(), copy.deepcopy(encoder.module).requires_grad_(True)
    assert given.pixels is not None
    head = Head(*map(torch.clone, initial_head(E, D, torch.Generator().manual_seed(FIRST_SEED))))
    head = Head(*(part.requires_grad_() for part in head))
    optimizer = torch.optim.SGD(
        [{"params": list(net.parameters()), "lr": RATES[0] / 10}, {"params": list(head), "lr": RATES[1] / 10}],
        momentum=0.9,
        weight_decay=RECIPE.weight_decay,
    )
    draws = torch.Generator().manual_seed(FIRST_SEED)
    for epoch in range(7):
        if epoch == 4:
            for group in optimizer.param_groups:
                group["lr"] /= 10
        for _ in range(2):
            batch = torch.randperm(N, generator=draws)[:4]
            images = torch.nn.functional.normalize(net(given.pixels[batch] / 255))
            logits = images @ embed(head, TEXTS[batch]).T / 0.07
            optimizer.zero_grad()
            contrastive_loss(logits).backward()
            optimizer.step()
    before = encoder.start
    learnt = student(encoder, given)
    for name, weight in net.named_parameters():
        torch.testing.assert_close(learnt.image[name], weight.detach(), rtol=1e-4, atol=1e-6)
        assert not torch.equal(learnt.image[name], before[name])
    for name, part in head._asdict().items():
        torch.testing.assert_close(learnt.text[name], part.detach(), rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_the_network_on_the_images(encoder: TrainedEncoder) -> None:
    given, networks = pairs(), student(encoder, pairs())
    assert given.pixels is not None
    images, texts = embed_pairs(encoder, networks, given)
    hits = hits_of_networks(encoder, networks, given.pixels.split(4), TEXTS.half(), torch.arange(N))
    expected = retrieval_hits(images, embed(Head(**networks.text), TEXTS.half().float()), torch.arange(N))
    assert torch.equal(hits, expected)
    torch.testing.assert_close(texts, embed(Head(**networks.text), TEXTS))


def test_same_seed_same_student_other_seed_another(encoder: TrainedEncoder) -> None:
    one, same, other = (student(encoder, pairs(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(weight, same.image[name]) for name, weight in one.image.items())
    assert not torch.equal(one.text["fc_weight"], other.text["fc_weight"])


def test_a_diverging_student_says_what_to_lower(encoder: TrainedEncoder) -> None:
    with pytest.raises(NonFiniteError, match=r"lower its distill\.encoder_rate"):
        student(encoder, pairs((1e30, 1e30)))


def test_pairs_without_pixels_are_refused(encoder: TrainedEncoder) -> None:
    with pytest.raises(RecordError, match="no pixels"):
        student(encoder, replace(pairs(), pixels=None))


def test_a_student_trains_on_the_loss_s_learned_parameters(encoder: TrainedEncoder) -> None:
    given = replace(pairs(), loss=f"{Path(__file__).parents[2] / 'docs/examples/own_loss.py'}:LOSS")
    start, stated, learned = (
        student(encoder, replace(given, loss_parameters=parameters)).text["fc_weight"]
        for parameters in ({}, {"bias": -10.0}, {"bias": -4.0})
    )
    assert torch.equal(start, stated)
    assert not torch.allclose(start, learned)
