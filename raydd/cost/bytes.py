"""Estimates the disk space and memory that a planned run needs, in bytes. Memory is an upper estimate.

`heads_bytes` counts the memory of matching and of students on features, both for a run and for a trial.
"""

import torch
from torch import nn
from torch.func import functional_call

from raydd.config import Config
from raydd.config.sweep import TRIAL_SEEDS
from raydd.distill.heads import head_size
from raydd.distill.image_variables import KEPT_GRAPH_BYTES
from raydd.distill.legs import KEPT_LEG_BYTES, LEGS_PART
from raydd.evaluate.students import FIRST_FACTORS
from raydd.memory import kept_by_autograd

_HALF = 2  # bytes of a number in storage
SINGLE = 4  # and in computation
_PROCESS = 1_200_000_000  # Python, torch, the encoders' packages and their weights
CONTEXT_BYTES = 800 * 2**20  # the CUDA context, and the libraries' work space
_SCORING = 512 * 2**20  # similarities of queries and candidates, computed in chunks
_SAFETY = 1.25
_HEAD_COPIES = 6  # copies of both heads: start, target, their difference, its square, and intermediate results
_STUDENT_COPIES = 3  # copies of both heads: weights, gradients summed with momentum, and the heads that are scored
_WALK_TENSORS = 16  # rows that a student step keeps for the second backward pass, over both heads
_ENCODER_COPIES = 8  # copies of a trained encoder's weights: start, target, and what the matching loss keeps
_FORWARD = 32  # memory of an encoder's forward pass for an image, in sizes of the image
_BACKWARD = 1.2  # memory of the backward pass relative to the graph: the graph and the gradients
_WORKER = 250_000_000  # a process that decodes or encodes images


def feature_bytes(images: int, clean_images: int, views: int, image_width: int, captions: int, text_width: int) -> int:
    """Return the size of the feature cache: half precision, K views per training image, one per val and test image."""
    return _HALF * ((images * views + clean_images) * image_width + captions * text_width)


def parameters_of(config: Config, image_width: int, text_width: int, encoder: nn.Module | None = None) -> int:
    """Return an expert's number of parameters: of both projection heads, or of an image encoder and the text head."""
    width = config.experts.width or image_width
    if encoder is not None:
        return sum(weight.numel() for weight in encoder.parameters()) + head_size(text_width, width)
    return head_size(image_width, width) + head_size(text_width, width)


def expert_bytes(config: Config, parameters: int) -> int:
    """Return the size of the stored expert snapshots: those that distillation reads, and those of the full-data row.

    Args:
        config: all settings.
        parameters: number of parameters of an expert, see `parameters_of`.
    """
    snapshots = {(expert, epoch) for expert in range(config.experts.count) for epoch in config.distill.expert_epochs}
    if "full" in config.evaluate.baselines:
        snapshots |= {(0, epoch) for epoch in range(config.experts.last_epoch)}  # val chooses one of them
        snapshots |= {(expert, config.experts.last_epoch) for expert in range(config.evaluate.seeds)}
    stored_snapshots = sum(epoch > 0 for _, epoch in snapshots)  # the initial state is drawn again from its seed
    return _HALF * parameters * stored_snapshots


def heads_bytes(config: Config, image_width: int, text_width: int, *, students: int) -> int:
    """Return the peak memory of heads on features: matching trajectories, and training students side by side.

    Args:
        config: all settings.
        image_width: width of the image features.
        text_width: width of the text features.
        students: number of students that are trained at once.
    """
    width = config.experts.width or image_width
    parameters = parameters_of(config, image_width, text_width)
    steps, rows = config.distill.student_steps, config.distill.minibatch_size
    kept_steps = steps * (steps + 1) // 2 if config.distill.gradient == "exact" else steps  # a step reads all before it
    floats = parameters * (_HEAD_COPIES + _STUDENT_COPIES * students) + kept_steps * rows * width * _WALK_TENSORS
    return int(_SAFETY * (_SCORING + SINGLE * floats))


def trial_bytes(config: Config, image_width: int, text_width: int) -> int:
    """Return the GPU memory that a trial on features needs, without the legs that it keeps."""
    return int(_SAFETY * CONTEXT_BYTES) + heads_bytes(config, image_width, text_width, students=TRIAL_SEEDS)


def share_bytes(config: Config, image_width: int, text_width: int) -> int:
    """Return the GPU memory of a process that runs one trial on features, to compute its share of a GPU."""
    return trial_bytes(config, image_width, text_width) * LEGS_PART // (LEGS_PART - 1)


def trials_together(config: Config, image_width: int, text_width: int, size: int) -> int:
    """Return how many trials on features fit a GPU of `size` bytes in one process, next to the legs; may be 0."""
    per_trial = heads_bytes(config, image_width, text_width, students=TRIAL_SEEDS)
    free = max(0, size - int(_SAFETY * CONTEXT_BYTES))
    return (free - free // LEGS_PART) // per_trial


def memory_bytes(
    config: Config,
    image_width: int,
    text_width: int,
    *,
    size: int,
    graph: int,
    images: int,
    workers: int,
    most_kept: int = KEPT_GRAPH_BYTES,
) -> int:
    """Return the peak memory of a run without a sweep, at any number of images, since they are read batch by batch.

    Args:
        config: all settings.
        image_width: width of the image features.
        text_width: width of the text features.
        size: side of the encoder's square input, in pixels.
        graph: bytes that autograd keeps for one image, see `graph_bytes`.
        images: number of images in the encoder at once.
        workers: number of processes that encode, in addition to this process.
        most_kept: most bytes kept of the graphs of learned pixels, see `raydd.distill.image_variables.kept_bytes`.
    """
    per_image = _FORWARD * 3 * size * size * SINGLE
    if config.distill.images != "features":
        per_image = max(per_image, int(_BACKWARD * graph))
    kept_bytes = min(most_kept, config.distill.pairs * graph) if config.distill.images == "pixels" else 0
    heads = heads_bytes(config, image_width, text_width, students=max(config.evaluate.seeds, len(FIRST_FACTORS)))
    kept_bytes += legs_bytes(config, parameters_of(config, image_width, text_width))
    return _PROCESS + workers * _WORKER + kept_bytes + max(images * per_image, heads)


def legs_bytes(config: Config, parameters: int) -> int:
    """Return the bytes that a distillation on a CPU keeps of experts: each leg's start and the way to its target."""
    legs = config.experts.count * config.distill.max_start_epoch if config.distill.reads_experts else 0
    return min(KEPT_LEG_BYTES, legs * 2 * SINGLE * parameters)


def encoder_memory_bytes(config: Config, parameters: int, *, graph: int, images: int) -> int:
    """Return an upper estimate of the peak memory in bytes of a run that trains the image encoder.

    Args:
        config: all settings.
        parameters: number of parameters of the encoder and the text head.
        graph: bytes that autograd keeps for one image, see `second_graph_bytes`.
        images: number of images in the encoder at once.
    """
    # The exact gradient keeps the weights of each step.
    kept_steps = config.distill.student_steps if config.distill.gradient == "exact" else 0
    weights = (_ENCODER_COPIES + kept_steps) * SINGLE * parameters
    return _PROCESS + weights + int(_BACKWARD * images * graph)


def graph_bytes(module: nn.Module, size: int, device: str = "cpu") -> int:
    """Return the bytes that autograd keeps for the gradient at one image's pixels, without weights; runs one image.

    Args:
        module: a frozen encoder.
        size: side of its square input, in pixels.
        device: where the encoder is.
    """
    image = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
    weights = (*module.parameters(), *module.buffers())
    return kept_by_autograd(lambda: module(image), excluded=weights)[1]


def second_graph_bytes(module: nn.Module, size: int, device: str = "cpu") -> int:
    """Return the bytes that autograd keeps of one image for second derivatives at the weights; runs one image."""
    image = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
    weights = {name: weight.detach().requires_grad_() for name, weight in module.named_parameters()}

    def gradient() -> object:
        features = functional_call(module, weights, (image,))
        return torch.autograd.grad(features.square().sum(), list(weights.values()), create_graph=True)

    return kept_by_autograd(gradient, excluded=(*weights.values(), *module.buffers()))[1]
