"""Provenance of a synthetic set: the facts in its manifest about what it is and what made it, as a typed object.

A set may come from an untrusted source, so `Provenance.from_json` checks every field, and `Provenance.config` takes no
name of code from it.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError

from raydd.code_version import code_version
from raydd.config import Config, StudentsConfig
from raydd.errors import ConfigError, RecordError
from raydd.outside import CODE_SETTINGS, require_trusted
from raydd.settings import RENAMED, flatten, with_settings

if TYPE_CHECKING:
    from raydd.data import DataSet
    from raydd.distill.synthetic import SyntheticSet

# Bounds that no real set comes near. They keep a forged manifest from using unlimited memory or time.
_SHORT, _LONG, _MANY, _LARGEST = 4096, 100_000, 10_000, 2**62
Name = Annotated[str, StringConstraints(max_length=_SHORT)]
Text = Annotated[str, StringConstraints(max_length=_LONG)]
RecordName = Annotated[str, StringConstraints(max_length=_SHORT, pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?$")]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=0, le=_LARGEST)]
Positive = Annotated[FiniteFloat, Field(gt=0, le=1e12)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e12)]
Scalar = bool | int | FiniteFloat | Text | None
Setting = Scalar | Annotated[tuple[Scalar, ...], Field(max_length=_MANY)]

# Settings that did not make the set: where a run stores its results, and where else its set is scored.
_OTHER_SETTINGS = ("place.", "sweep.", "compare.", "evaluate.encoders", "evaluate.classes", "evaluate.unseen")


@dataclass(frozen=True)
class Trained:
    """What students of a set train, in words."""

    students: str
    """Follows the words `a student trains`."""
    image_side: str
    """The network that is trained with the image side's learning rate."""
    encoders: str
    """Both encoders; `{image}` and `{text}` stand for their names."""


_TRAINED = {
    "heads": Trained(
        "two projection heads on frozen encoders",
        "image head",
        "encoders, both frozen: {image} (images), {text} (texts)",
    ),
    "encoder": Trained(
        "the image encoder and a text head",
        "image encoder",
        "encoders: {image} (images), which students train, and {text} (texts), frozen",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """The data set that a synthetic set was distilled from."""

    name: Name
    fingerprint: Name
    """Identifies the data set."""
    notes: Annotated[tuple[Text, ...], Field(max_length=_MANY)] = ()
    """Decisions of raydd about the splits."""


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """An encoder that a set was made with."""

    name: Name
    """As the setting `encoders.image` or `encoders.text` names it."""
    identity: Name
    """Name, weights and input size: two encoders with one identity give the same features."""


@dataclass(frozen=True, kw_only=True)
class EncoderSources:
    """Both encoders."""

    image: EncoderSource
    text: EncoderSource


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The records that a set was made from, as `STAGE/FINGERPRINT` or a fingerprint alone."""

    experts: RecordName | None
    """None if the objective reads no experts."""
    features: RecordName
    """Image and caption features; under protocol encoder only caption features."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a synthetic set is and what made it."""

    settings: Annotated[Mapping[Name, Setting], Field(max_length=_MANY)]
    """All settings that made the set under their dotted names, except those of places, sweeps and comparisons. The
    `evaluate` settings are those of the run that made the set; its scores may come from other ones."""
    data: DataSource
    encoders: EncoderSources
    upstream: Upstream
    protocol: Literal["heads", "encoder"]
    """Decides what students train, see `trained`."""
    pairs: Count
    """Number N of synthetic pairs."""
    loss: Name
    """The students' loss."""
    temperature: Positive
    """Students divide cosines by this number."""
    width: Count
    """Width of the space that images and texts share."""
    selection: Text
    """How the set was chosen among the candidates, in one sentence."""
    times_learned_rates: Positive
    """LR multiplier: final learning rates divided by learned ones. 1 if none was fitted. Under features-then-pixels
    both fits count, that of the features and that of the pixels."""
    seconds: Seconds
    """Time of the distillation steps."""
    preparing_seconds: Seconds
    """Time to prepare the start of the distillation, including the search for pixels, but without what other
    distillations read too: features, experts, and the choice of the start pairs."""
    cpu_seconds: Seconds | None = None
    """CPU time of both `seconds` and `preparing_seconds`, over all threads; None if it was not measured."""
    peak_bytes: Bytes
    """Peak memory while the start was prepared and the steps were taken, before learning rates were fitted."""
    stored_bytes: Bytes
    """Size of the data that a student trains on."""
    raydd: Name
    """Version of the code."""
    device: Text = ""
    """What computed the set: cpu, or the GPU's name. Sums and dropout masks depend on it. Empty if unknown."""
    first_captions: Annotated[tuple[Text, ...], Field(max_length=_MANY)] = ()
    """The real captions nearest to the first texts."""

    @classmethod
    def of(
        cls,
        config: Config,
        synthetic: "SyntheticSet",
        *,
        data: "DataSet",
        identities: tuple[str, str],
        upstream: Upstream,
        width: int,
        times_learned_rates: float,
        seconds: float,
        preparing_seconds: float,
        cpu_seconds: float | None,
        peak_bytes: int,
        device: str,
    ) -> Self:
        """Return the provenance of a set that was just made; `write_set` adds the first captions.

        Args:
            config: all settings that made the set.
            synthetic: the set.
            data: the data set that it was made from.
            identities: identities of the image encoder and of the text encoder.
            upstream: the records that it was made from.
            width: width of the shared space.
            times_learned_rates: LR multiplier; 1 if none was fitted.
            seconds: time of the distillation steps.
            preparing_seconds: time before the first step.
            cpu_seconds: CPU time of both.
            peak_bytes: peak memory during the distillation.
            device: what computed it, see `raydd.device.device_name`.
        """
        image, text = identities
        return cls(
            settings={k: v for k, v in flatten(config).items() if not k.startswith(_OTHER_SETTINGS)},
            data=DataSource(name=data.name, fingerprint=data.fingerprint, notes=tuple(data.notes)),
            encoders=EncoderSources(
                image=EncoderSource(name=config.encoders.image, identity=image),
                text=EncoderSource(name=config.encoders.text, identity=text),
            ),
            upstream=upstream,
            protocol=config.distill.protocol,
            pairs=len(synthetic),
            loss=synthetic.loss,
            temperature=config.experts.temperature,
            width=width,
            selection=selection_of_set(config),
            times_learned_rates=times_learned_rates,
            seconds=seconds,
            preparing_seconds=preparing_seconds,
            cpu_seconds=cpu_seconds,
            peak_bytes=peak_bytes,
            stored_bytes=synthetic.stored_bytes,
            raydd=code_version(),
            device=device,
        )

    @classmethod
    def from_json(cls, value: object, path: str = "manifest.json") -> Self:
        """Read the provenance in a manifest's facts and check every field; unknown fields of a newer raydd are ignored.

        Args:
            value: the output of `as_json`, or any other object.
            path: the file that the facts were read from, for messages.

        Raises:
            RecordError: a field is missing or wrong, or contradicts a setting; names the first such field.
        """
        provenance = checked(cls, value, path)
        provenance = replace(
            provenance, settings={RENAMED.get(name, name): setting for name, setting in provenance.settings.items()}
        )
        for name, field_value in provenance._fields_that_are_settings().items():
            if provenance.settings.get(name, field_value) != field_value:
                raise RecordError(
                    f"{path} contradicts itself: its setting {name} is {provenance.settings[name]!r}, but its own "
                    f"field for that setting is {field_value!r}. {_HELP}"
                )
        return provenance

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def trained(self) -> Trained:
        """What students of the set train, in words."""
        return _TRAINED[self.protocol]

    @property
    def students(self) -> StudentsConfig:
        """The students' recipe of the run that made the set; settings that it did not have are at their defaults.

        Raises:
            ConfigError: a setting has a value that this version refuses.
        """
        stated = {field.name: self.settings.get(f"students.{field.name}") for field in fields(StudentsConfig)}
        return StudentsConfig(**{name: value for name, value in stated.items() if value is not None})  # type: ignore[arg-type]

    @property
    def unknown_settings(self) -> tuple[str, ...]:
        """Settings of the set that this version of raydd does not have, sorted."""
        known_settings = flatten(Config())
        return tuple(sorted(name for name in self.settings if name not in known_settings))

    def config(self, user_settings: Mapping[str, Any] | None = None) -> Config:
        """Return the settings that made the set, overridden by the user's own settings.

        Settings that this version does not have are left out; the command line names them (`unknown_settings`).
        Settings that the set's version did not have are at their defaults.

        A setting may name code (an encoder, a reader, a method, a loss). Only names of raydd's own registries are taken
        from the set. All other names, `module:NAME`, `FILE.py:NAME` and models of a hub (`hf:`, `timm:`, `open_clip:`),
        must be repeated in the user's own settings.

        Args:
            user_settings: dotted settings from the user's own file and flags.

        Raises:
            RecordError: a setting of the set has a value that this version refuses.
            ConfigError: one of the user's settings is wrong, or a name of code is not repeated.
        """
        user_settings, known_settings = dict(user_settings or {}), flatten(Config())
        settings = {k: v for k, v in self.settings.items() if k in known_settings and not k.startswith(_OTHER_SETTINGS)}
        settings |= self._fields_that_are_settings()
        # Before any setting is checked: checking a user-defined loss runs it.
        overridden = set(user_settings) - {
            "distill.loss"
        }  # students of the set train with the set's own loss in any case
        require_trusted(
            {name: str(settings[name]) for name in CODE_SETTINGS if name in settings and name not in overridden},
            user_settings,
            "The set",
        )
        try:
            config = with_settings(
                Config(),
                {**settings, **{name: value for name, value in user_settings.items() if name in CODE_SETTINGS}},
            )
        except ConfigError as error:
            raise RecordError(
                f"The set was made with settings that this version of raydd refuses. {error} Use the version that made "
                f"it, {self.raydd}."
            ) from error
        return with_settings(config, user_settings)

    def require_encoders(self, config: Config) -> None:
        """Refuse settings with another protocol or other encoders than the set was made with.

        This reads names and weights files, and builds no network.

        Raises:
            ConfigError: the protocol or an encoder differs, or an encoder is not available.
            DataError: the weights of an encoder are not available.
        """
        from raydd.data.encoders import image_identity, text_identity

        if config.distill.protocol != self.protocol:
            raise ConfigError(
                f"The set was made under distill.protocol {self.protocol}: a student of it trains "
                f"{self.trained.students}. Leave distill.protocol out."
            )
        for side, set_identity, identity in (
            ("image", self.encoders.image.identity, image_identity(config.encoders)),
            ("text", self.encoders.text.identity, text_identity(config.encoders)),
        ):
            if set_identity != identity:
                raise ConfigError(
                    f"The set was made with the {side} encoder {set_identity!r}, but encoders.{side} is {identity!r} "
                    f"here. Give the encoder and the weights that made it (encoders.{side}_weights). `raydd evaluate "
                    "--evaluate.encoders` scores a set with other encoders."
                )

    def _fields_that_are_settings(self) -> dict[str, Any]:
        """Return the fields that are also settings, under their dotted names."""
        return {
            "distill.protocol": self.protocol,
            "distill.loss": self.loss,
            "encoders.image": self.encoders.image.name,
            "encoders.text": self.encoders.text.name,
            "experts.temperature": self.temperature,
        }


def selection_of_set(config: Config) -> str:
    """Say in one sentence how the set of these settings is chosen among the candidates."""
    last_set = "The set after the last distillation step"
    if not config.distill.fit_rates:
        return f"{last_set}, with its learned learning rates."
    multiplier = "a power of two that was chosen by a student's val r_mean"
    return f"{last_set}; its learning rates are the learned ones times {multiplier}."


def selection_rule(config: Config) -> str:
    """Say how scores under these settings are chosen, and whether anything is chosen on the scored split."""
    split = config.evaluate.split
    if config.evaluate.choice == "best-on-split":
        return (
            f"Best of {config.evaluate.checks} checks of each student on {split}, the split that is scored, as "
            "published: these scores are higher than those of a held-out choice. The set is that of the last "
            "distillation step."
        )
    rule = "Last student epoch, last distillation step"
    choices = (["the synthetic set's LR multiplier"] if config.distill.fit_rates else []) + (
        ["the baselines' learning rates and epochs"] if config.evaluate.baselines else []
    )
    if not choices:
        return f"{rule}; nothing is chosen on {split}, the split that is scored."
    sentence = f"{rule}; {' and '.join(choices)} {'are' if len(choices) > 1 or config.evaluate.baselines else 'is'}"
    if split == "val":
        return f"{sentence} chosen on val, the split that is scored."
    return f"{sentence} chosen on val, and nothing is chosen on {split}, the split that is scored."


def checked(kind: type, value: object, path: str) -> Any:
    """Parse a value strictly as a dataclass or another type: no string is read as a number, no field is made up.

    Raises:
        RecordError: a field is missing or wrong; names the first such field.
    """
    try:
        content = json.dumps(value)
        return _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        raise RecordError(f"{path} does not describe a synthetic set: {_describe_problem(problem)}. {_HELP}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} does not describe a synthetic set ({error}). {_HELP}") from error


_HELP = "Copy the set again from an intact copy, or make it again with this version of raydd."
_SHOWN_CHARACTERS = 60  # characters shown of a wrong value


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _describe_problem(problem: Any) -> str:
    """Say which field is wrong, and why."""
    location = [str(part) for part in problem["loc"]]
    # The parts after a setting's name are the types that were tried for its value.
    field = ".".join(location[:2] if location and location[0] == "settings" else location)
    if problem["type"] == "missing":
        return f"the field {field} is missing"
    value = repr(problem["input"])
    value = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"
    statement = f"the field {field} is {value}" if field else f"it holds {value}"
    message = str(problem["msg"])
    return f"{statement}, but {message[:1].lower()}{message[1:]}".replace("input should", "should")
