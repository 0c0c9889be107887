"""Agreement with the published formulas: float64 inputs and outputs in the folder that RAYDD_PARITY names."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matrix_scores import matrix_scores
from small_distillations import read
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.experts import sgd_step_
from raydd.distill.heads import Head, embed, project
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.legs import Leg
from raydd.distill.losses import LOSSES
from raydd.distill.matching import LearnedPairs, StepLoss, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan
from raydd.evaluate.retrieval import METRICS

PARITY = Path(os.environ.get("RAYDD_PARITY") or Path(__file__).parents[3] / "shared" / "parity")
TOLERANCE = 1e-8
WIDTHS = {"img": 12, "txt": 9}
D = 12

if not PARITY.is_dir():
    pytest.skip(f"no parity arrays in {PARITY}; set RAYDD_PARITY", allow_module_level=True)


class Case:
    """One stored case, and the largest relative error seen against it."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(PARITY / f"{name}.npz")
        self.name, self.worst = name, 0.0

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[key]))

    def number(self, key: str) -> float:
        return float(self.arrays[key])

    def head(self, flat: Tensor, side: str) -> Head:
        return Head.of_flat(flat, WIDTHS[side], D)

    def agrees(self, ours: Tensor | float, key: str, row: int | None = None) -> None:
        stored = self[key].double()
        stored = stored if row is None else stored[row]
        ours = torch.as_tensor(ours, dtype=torch.float64).detach()
        assert ours.shape == stored.shape, f"{self.name}: {key}"
        error = float((ours - stored).norm() / stored.norm().clamp_min(1e-300))
        if float(stored.norm()) == 0:
            error = float(ours.norm())
        self.worst = max(self.worst, error)
        assert error < TOLERANCE, f"{self.name}: {key} is off by {error:.1e}"


@pytest.fixture
def case(request: pytest.FixtureRequest):
    case = Case(request.param)
    yield case
    print(f"\nparity {case.name}: largest relative error {case.worst:.1e}")


@pytest.mark.parametrize("case", ["case1_projection_head"], indirect=True)
@pytest.mark.parametrize("side", ["img", "txt"])
def test_projection_head(case: Case, side: str) -> None:
    features = case[f"{side}_x"].requires_grad_()
    flat = case[f"{side}_flat_params"].requires_grad_()
    head = case.head(flat, side)
    names = ["projection_weight", "projection_bias", "fc_weight", "fc_bias", "layer_norm_weight", "layer_norm_bias"]
    for part, name in zip(head, names, strict=True):
        case.agrees(part, f"{side}_{name}")
    case.agrees(project(head, features), f"{side}_out")
    embedding = embed(head, features)
    case.agrees(embedding, f"{side}_out_normalised")
    gradients = torch.autograd.grad((case[f"{side}_cotangent"] * embedding).sum(), (features, flat))
    case.agrees(gradients[0], f"{side}_grad_x")
    case.agrees(gradients[1], f"{side}_grad_flat_params")


@pytest.mark.parametrize("case", ["case2_similarity"], indirect=True)
def test_similarity(case: Case) -> None:
    factors = {"diagonal": case["diag"], "left": case["left"], "right": case["right"]}
    leaves = {name: factor.requires_grad_() for name, factor in factors.items()}
    similarity = Similarity("low-rank", 8, leaves, case.number("alpha"))
    case.agrees(similarity.matrix(), "full")
    case.agrees(similarity.minibatch(case["minibatch_index"].long()), "minibatch")
    gradients = torch.autograd.grad((case["cotangent"] * similarity.matrix()).sum(), list(leaves.values()))
    for gradient, key in zip(gradients, ["grad_diag", "grad_left", "grad_right"], strict=True):
        case.agrees(gradient, key)
    start = {"diagonal": case["init_diag"], "left": case["init_left"], "right": case["init_right"]}
    case.agrees(Similarity("low-rank", 8, start, case.number("alpha")).matrix(), "init_full")


@pytest.mark.parametrize("case", ["case3_losses"], indirect=True)
@pytest.mark.parametrize(("ours", "theirs"), [("wbce", "WBCE"), ("bce", "BCE"), ("infonce", "InfoNCE")])
def test_losses(case: Case, ours: str, theirs: str) -> None:
    for kind in ["unit", "wild", "nopos", "eye"]:
        if f"{theirs}_{kind}_value" not in case.arrays:
            assert (theirs, kind) == ("BCE", "wild")
            continue
        logits, target = case["logits"].requires_grad_(), case[f"target_{kind}"].requires_grad_()
        value = LOSSES[ours](logits, target)
        case.agrees(value, f"{theirs}_{kind}_value")
        at_logits, at_target = torch.autograd.grad(value, (logits, target))
        case.agrees(at_logits, f"{theirs}_{kind}_grad_logits")
        case.agrees(at_target, f"{theirs}_{kind}_grad_target")


@pytest.mark.parametrize("case", ["case3_losses"], indirect=True)
def test_expert_loss(case: Case) -> None:
    logits = case["logits"].requires_grad_()
    value = LOSSES["infonce"](logits, torch.eye(5, dtype=torch.float64))
    case.agrees(value, "expertCE_value")
    case.agrees(torch.autograd.grad(value, logits)[0], "expertCE_grad_logits")


@pytest.mark.parametrize("case", ["case4_blended_inner_step"], indirect=True)
def test_blended_inner_step(case: Case) -> None:
    ratio, permutation = 1 - case.number("lam"), case["perm"].long()
    images = blend(case["image_features"], case["image_features"][permutation], ratio)
    texts = blend(case["text_features"], case["text_features"][permutation], ratio)
    case.agrees(images, "blended_image")
    case.agrees(texts, "blended_text")
    image_flat, text_flat = case["img_params"].requires_grad_(), case["txt_params"].requires_grad_()
    image_embedding = embed(case.head(image_flat, "img"), images)
    text_embedding = embed(case.head(text_flat, "txt"), texts)
    logits = image_embedding @ text_embedding.T / case.number("tau")
    loss = LOSSES["wbce"](logits, case["similarity"])
    for ours, key in [(image_embedding, "img_embedding"), (text_embedding, "txt_embedding"), (logits, "logits")]:
        case.agrees(ours, key)
    case.agrees(loss, "loss")
    gradients = torch.autograd.grad(loss, (image_flat, text_flat))
    case.agrees(gradients[0], "img_grad")
    case.agrees(gradients[1], "txt_grad")


@pytest.mark.parametrize(
    "case",
    ["case5_repblend_iteration", "case6a_lors_headonly_iteration", "case6b_identity_infonce_iteration"],
    indirect=True,
)
def test_iteration(case: Case) -> None:
    blended, identity = "case5" in case.name, "case6b" in case.name
    names = {"image": "image_features", "text": "text_features"}
    if not identity:
        names |= {f"similarity.{name}": f"sim_{short}" for name, short in _FACTORS.items()}
    tensors = {name: case[key].double() for name, key in names.items()}
    tensors["rates"] = torch.stack([case["syn_lr_img"], case["syn_lr_txt"]]).double()
    kind, alpha = ("identity", 1.0) if identity else ("low-rank", case.number("sim_alpha"))
    factors = {name.removeprefix("similarity."): tensor for name, tensor in tensors.items() if "similarity" in name}
    plan = StudentPlan(
        case["order"].long(),
        case["perm"].long() if blended else torch.arange(4).repeat(3, 1),
        tuple(1 - float(lam) for lam in case["lam"]) if blended else (0.0,) * 3,
    )
    loss = LOSSES["infonce" if identity else "wbce"]
    start, target = (
        (case.head(case[f"img_{end}"], "img"), case.head(case[f"txt_{end}"], "txt")) for end in ("start", "target")
    )

    def gradient(exact: bool, merged: bool) -> StepLoss:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        run = StudentRun(plan, loss, case.number("tau"), exact, merged=merged)
        pairs = LearnedPairs.of(leaves, Similarity(kind, 8, factors, alpha))
        return read(heads_gradient(run, Leg.between(start, target), pairs))

    for merged in (False, True):
        exact, constant = gradient(exact=True, merged=merged), gradient(exact=False, merged=merged)
        case.agrees(exact.loss, "merged_loss" if merged else "total_loss")
        case.agrees(torch.tensor(exact.student_losses, dtype=torch.float64), "inner_loss")
        case.agrees(exact.fractions["loss/image"], "img_loss")
        case.agrees(exact.fractions["loss/text"], "txt_loss")
        prefix = "merged_" if merged else ""
        for found, kind_of_gradient in [(exact, "grad_"), (constant, "tesla_grad_")]:
            for name, key in names.items():
                case.agrees(found.gradients[name], f"{kind_of_gradient}{prefix}{key}")
            if merged and kind_of_gradient == "tesla_grad_":
                continue  # the reference's own slip: it keeps the separately normalised branches there
            for at_rate, side in zip(found.gradients["rates"], ("img", "txt"), strict=True):
                case.agrees(at_rate, f"{kind_of_gradient}{prefix}syn_lr_{side}")


_FACTORS = {"diagonal": "diag", "left": "left", "right": "right"}


@pytest.mark.parametrize("case", ["case7_retrieval"], indirect=True)
def test_retrieval(case: Case) -> None:
    owner = case["image_of_text"].long()

    def metrics(key: str) -> Tensor:
        scores = matrix_scores(case[key].double(), owner)
        return torch.tensor([scores[metric] for metric in METRICS], dtype=torch.float64)

    case.agrees(metrics("scores"), "metrics")
    # Ties: a wrong candidate that ties counts as nearer, which is the worst order the stored bounds allow.
    case.agrees(metrics("tied_scores"), "tied_metrics_worst")
    assert bool((metrics("tied_scores") <= case["tied_metrics_best"]).all())


@pytest.mark.parametrize("case", ["case9_expert_steps"], indirect=True)
def test_expert_steps(case: Case) -> None:
    image, text = case.head(case["img_params"][0], "img"), case.head(case["txt_params"][0], "txt")
    assert case.number("lr_img") == case.number("lr_txt")
    for step in range(3):
        before = image.flat(), text.flat()
        loss = sgd_step_(
            image,
            text,
            case["image_features"][step],
            case["text_features"][step],
            lr=case.number("lr_img"),
            temperature=case.number("tau"),
        )
        case.agrees(loss, "loss", step)
        case.agrees((before[0] - image.flat()) / case.number("lr_img"), "img_grad", step)
        case.agrees((before[1] - text.flat()) / case.number("lr_txt"), "txt_grad", step)
        case.agrees(image.flat(), "img_params", step + 1)
        case.agrees(text.flat(), "txt_params", step + 1)
