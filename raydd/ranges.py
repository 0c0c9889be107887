"""Valid ranges of numbers, names and devices among the settings. They are checked when settings load.

Every float must be finite, and every seed must fit in 32 bits, as in NumPy and Optuna. `RANGES` holds the bounds that
depend on no other setting. It also refuses absurd values, such as a learning rate that overflows float32.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from raydd.errors import ConfigError, shown

MOST = 10**9  # bound of a count that has no other bound
_SEED = (0, 2**32 - 1)
_COUNT = (1, MOST)
_FROM_ZERO = (0, MOST)
_RATE = (1e-12, 1e6)  # range of a learning rate that must not be zero
_RATE_FROM_ZERO = (0.0, 1e6)

RANGES: Mapping[str, tuple[float, float]] = {
    "data.caption_words": (0, 10_000),
    "data.seed": _SEED,
    "encoders.image_size": (0, 4096),
    "features.views": (1, 10_000),
    "features.seed": _SEED,
    "experts.count": (1, 100_000),
    "experts.epochs": (1, 100_000),
    "experts.lr": _RATE,
    "experts.encoder_lr": _RATE,
    "experts.anneal": (0, 100_000),
    "experts.batch_size": (2, MOST),
    "experts.width": (0, 65_536),
    "experts.temperature": (1e-4, 1e4),
    "distill.temperature": (0, 1e4),
    "evaluate.checks": (2, 1000),
    "experts.seed": _SEED,
    "distill.pairs": (3, 1_000_000),
    "distill.steps": _FROM_ZERO,
    "distill.steps_per_encoding": _COUNT,
    "distill.image_size": (0, 4096),
    "distill.least_crop": (0.01, 1.0),
    "distill.student_steps": (1, 100_000),
    "distill.max_start_epoch": (1, 100_000),
    "distill.target_epochs": (1, 100_000),
    "distill.text_target_epochs": (0, 100_000),
    "distill.all_experts_at": (0, 100),
    "distill.blend_beta": (1e-6, 1e6),
    "distill.blend_ratio": (0.0, 1.0),
    "distill.alpha": (-1e6, 1e6),
    "distill.covariance_scale": (1e-6, 1e6),
    "distill.mean_weight": (0.0, 1e6),
    "distill.ridge_strength": (1e-6, 1e6),
    "distill.real_minibatch": (2, MOST),
    "distill.image_lr": _RATE_FROM_ZERO,
    "distill.text_lr": _RATE_FROM_ZERO,
    "distill.similarity_lr": _RATE_FROM_ZERO,
    "distill.rate_lr": _RATE_FROM_ZERO,
    "distill.range_pull": (0.0, 1.0),
    "distill.start_rate": _RATE,
    "distill.encoder_rate": _RATE,
    "distill.checkpoint_every": _COUNT,
    "distill.seed": _SEED,
    "pixels.steps": _FROM_ZERO,
    "pixels.lr": _RATE,
    "students.epochs": (1, 1_000_000),
    "students.batch_size": (2, MOST),
    "students.weight_decay": (0.0, 1e3),
    "evaluate.seeds": (1, 100_000),
    "sweep.seed": _SEED,
    "sweep.trials": _COUNT,
    "sweep.max_failures": _FROM_ZERO,
    "sweep.hours": (0.0, 1e6),
    "sweep.gpu_hours": (0.0, 1e9),
    "sweep.cost": (0.0, 1e9),
    "sweep.price": (0.0, 1e9),
    "sweep.plateau": _FROM_ZERO,
    "sweep.plateau_gain": (0.0, 100.0),
    "sweep.drawn_again": _FROM_ZERO,
    "sweep.draws": _COUNT,
    "sweep.finalists": _FROM_ZERO,
    "sweep.at_once": _FROM_ZERO,
    "sweep.together": _FROM_ZERO,
    "sweep.cpus": (1e-4, 65_536),
    "sweep.rung_students": _FROM_ZERO,
    "sweep.last_rung_students": _FROM_ZERO,
    "compare.trials": (0, 1_000_000),
    "compare.sets": (1, 1000),
    "compare.checks": (0, 10_000),
    "place.cache_gb": (0.0, 1e6),
    "place.threads": (0, 4096),
    "place.encode_batch": (1, 65_536),
}
_NAME_LENGTH = 120  # characters of a name
_NAME_BYTES, _MADE_NAME_BYTES = 200, 150  # of a name, and of one that raydd makes and extends; file systems allow 255
_NAME = re.compile(r"\w[\w .,:;+=@()-]*")
NAME_RULE = f"1 to {_NAME_LENGTH} letters, digits, spaces and _ . , : ; + = @ ( ) -, a letter or digit first"
_DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu)(:[0-9]{1,3})?")
DEVICE_RULE = "auto, cpu, cuda or cuda:1; mps and xpu where torch was built for them"


def check_numbers(section: str, settings: object) -> None:
    """Refuse a section's numbers that are not finite or out of range, text with a NUL, and lists that repeat a value.

    Raises:
        ConfigError: a value is refused; the message names the setting, its value and the range.
    """
    for item in dataclasses.fields(settings):  # pyright: ignore[reportArgumentType]
        name, value = f"{section}.{item.name}", getattr(settings, item.name)
        if isinstance(value, tuple):
            require(len(set(value)) == len(value), name, value, "a list without repetitions")
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, str):
                require("\0" not in element, name, element, "text without a NUL character")
            if isinstance(element, int | float):
                _check_number(name, element)


def _check_number(name: str, value: float) -> None:
    require(math.isfinite(value), name, value, "a finite number")
    if name in RANGES:
        low, high = RANGES[name]
        require(low <= value <= high, name, value, f"{_format_bound(low)} to {_format_bound(high)}")
    else:
        require(abs(value) <= MOST, name, value, f"at most {_format_bound(MOST)}")


def _format_bound(bound: float) -> str:
    return f"{bound:,}".replace(",", " ") if isinstance(bound, int) else f"{bound:g}"


def check_name(name: str, value: str) -> None:
    """Refuse a name that cannot be used for a folder, for a run in MLflow and for a study.

    Raises:
        ConfigError: the name is refused; the message names the setting and the rule.
    """
    require(len(value) <= _NAME_LENGTH and bool(_NAME.fullmatch(value)), name, value, NAME_RULE)
    require(len(value.encode()) <= _NAME_BYTES, name, value, f"at most {_NAME_BYTES} bytes long in UTF-8")


def as_name(text: str) -> str:
    """Return any text as a name that `check_name` accepts."""
    name = re.sub(r"[^\w .,:;+=@()-]", "_", text)[:_NAME_LENGTH].encode()[:_MADE_NAME_BYTES].decode(errors="ignore")
    return name if _NAME.fullmatch(name) else f"x{name}"[:_NAME_LENGTH]


def check_device(value: str) -> None:
    """Refuse a device that torch does not compute on, such as meta.

    Raises:
        ConfigError: the device is refused; the message names the setting and the valid devices.
    """
    cuda = re.sub("^gpu", "cuda", value, flags=re.IGNORECASE)
    hint = f". Did you mean {cuda}?" if cuda != value and _DEVICE.fullmatch(cuda) else "."
    if not _DEVICE.fullmatch(value):
        raise ConfigError(f"place.device is {shown(value)}, but must be {DEVICE_RULE}{hint}")


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Refuse a setting that breaks its rule.

    Raises:
        ConfigError: `holds` is False.
    """
    if not holds:
        raise ConfigError(f"{name} is {shown(value)}, but must be {rule}.")
