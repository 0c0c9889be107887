"""The data card of an exported set: a README, written from the set's provenance, with the metadata that hubs read."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raydd.evaluate.published import has_name
from raydd.evaluate.retrieval import METRICS
from raydd.sets.read import OpenedSet
from raydd.terminal.console import visible

# Licences of source data sets: hub identifier and sentence. They matter, since synthetic images start from real images.
_OF_BUNDLED_STAMPS = ("gpl-2.0", "The stamps of Tux Paint, GPL-2.0-or-later.")
_LICENCES = {
    "flickr8k": ("other", "Flickr8k: for research and teaching, not commercial; the photographs are their owners'."),
    "flickr30k": ("other", "Flickr30k: for research and teaching, not commercial; the photographs are their owners'."),
    "coco": ("other", "COCO: annotations CC BY 4.0; the photographs are their owners', under Flickr's terms."),
    "cc3m": ("other", "CC3M: captions free to use with acknowledgement of Google; the photographs are their owners'."),
}
# The hub refuses a card with any other `license`. These are the common ones of its list for data and code, see
# https://huggingface.co/docs/hub/repositories-licenses.
_HUB_LICENCES = (
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0"),
    *("cdla-permissive-2.0", "c-uda", "odc-by", "odbl", "pddl", "etalab-2.0", "gfdl", "apache-2.0", "mit"),
    *("bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "unlicense"),
    *("unknown", "other"),
)
TAG = "raydd"  # a tag of every card, by which raydd knows its own cards
_UNKNOWN = ("unknown", "Unknown. Ask the owner of the data before you pass this set on.")
_SHOWN_SETTINGS = ("method", "images", "steps", "blend", "similarity", "rank", "loss", "target_epochs", "student_steps")


def licence_of(data: str, reader: str, stated_licence: str = "") -> tuple[dict[str, str], str]:
    """Return the licence of a data set: the card's metadata on it, and a sentence.

    The metadata are `license`, one of the hub's identifiers, and for a stated licence that is not one of these also
    `license_name`: the stated text in small letters, with hyphens between its words, as the hub's own names are.

    Args:
        data: name of the data set, which decides unless the reader says that it is the bundled one.
        reader: the setting `data.reader`; `stamps` reads the bundled data set, whatever its name.
        stated_licence: the licence as the user states it, which overrides both; empty if not stated.
    """
    if stated_licence:
        identifier = re.sub(r"[^a-z0-9.+]+", "-", stated_licence.lower()).strip("-")
        metadata = {"license": identifier if identifier in _HUB_LICENCES else "other"}
        if identifier and identifier not in _HUB_LICENCES:
            metadata["license_name"] = identifier
        return metadata, f"{stated_licence}, as stated by the person who exported this set."
    known = (licence for name, licence in _LICENCES.items() if has_name(data, name))
    identifier, sentence = _OF_BUNDLED_STAMPS if reader == "stamps" else next(known, _UNKNOWN)
    return {"license": identifier}, sentence


def size_category(pairs: int) -> str:
    """Return the hub's category of a data set of this many pairs, up to 100 million: `n<1K`, `1K<n<10K` and so on."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M")
    upper = max(0, len(str(pairs)) - len("999"))  # each further digit is the next category
    return f"{bounds[upper - 1]}<n<{bounds[upper]}" if upper else f"n<{bounds[0]}"


def card(
    opened: OpenedSet,
    scores: Mapping[str, Mapping[str, Any]],
    *,
    files: Mapping[str, str],
    reading_code: str,
    check: str = "",
    metadata: Mapping[str, Any] | None = None,
    licence: str = "",
) -> str:
    """Return the card as Markdown below a block of YAML.

    Args:
        opened: the set.
        scores: the known scores of the set, by split.
        files: description of each file, or pattern of files, of the export.
        reading_code: code that reads the export.
        check: Markdown section on how to score the export and which score to expect; empty if that was not measured.
        metadata: additional YAML metadata of the format.
        licence: licence of the source data as the user states it.
    """
    provenance, count = opened.provenance, len(opened.synthetic)
    licence_metadata, licence_text = licence_of(
        provenance.data.name, str(provenance.settings.get("data.reader", "")), licence
    )
    header = {
        "pretty_name": visible(f"{count} synthetic image-text pairs distilled from {provenance.data.name}"),
        **licence_metadata,
        "language": ["en"],
        "tags": ["dataset-distillation", "image-text-retrieval", "synthetic", TAG],
        "size_categories": [size_category(count)],
        **(metadata or {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n",
        f"# {plain(header['pretty_name'])}\n",
        f"{count} learned image-text pairs with a learned {count} x {count} similarity matrix. A student "
        f"trains {provenance.trained.students} on them and retrieves images by text and texts by image.\n",
        *_list_section("Files", [f"`{name}`: {description}" for name, description in files.items()]),
        f"## How to read it\n\n```python\n{reading_code.strip()}\n```\n",
        *_list_section("Provenance", [plain(line) for line in _provenance_lines(opened, licence_text)]),
        _score_section(scores),
        *([check] if check else []),
        *_list_section("Intended use", _USE),
        *_list_section("Limits", [plain(line) for line in _limit_lines(opened)]),
    ]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it literally; names may come from untrusted sets."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", visible(" ".join(text.split())))


_USE = (
    "Research on dataset distillation, and quick retrieval models for users of the same encoders.",
    "Not for decisions about people: not evaluated for bias in the encoders or the source data.",
)


def _limit_lines(opened: OpenedSet) -> Sequence[str]:
    encoders = opened.provenance.encoders
    image, text = encoders.image.name, encoders.text.name
    limits = [
        f"The pairs were learned for their encoders, {image} and {text}; they are less useful with other encoders.",
        "The texts are features. The listed captions are the nearest real captions; students do not train on them.",
        "The set inherits errors and biases of the source data and of the encoders.",
    ]
    if opened.synthetic.pixels is None:
        limits.append("Image features were learned, not pixels, so the set has no pictures in it.")
    else:
        limits.append("The images started from real photographs and still resemble them; they anonymise nobody.")
    return limits


def _provenance_lines(opened: OpenedSet, licence: str) -> Sequence[str]:
    provenance, synthetic = opened.provenance, opened.synthetic
    settings = [
        f"{name} {provenance.settings[f'distill.{name}']}"
        for name in _SHOWN_SETTINGS
        if f"distill.{name}" in provenance.settings
    ]
    recipe = [
        f"{name.removeprefix('students.')} {value}"
        for name, value in provenance.settings.items()
        if name.startswith("students.")
    ]
    image, text = provenance.encoders.image.name, provenance.encoders.text.name
    return (
        f"data: {provenance.data.name}, fingerprint {provenance.data.fingerprint}",
        f"licence of the source: {licence}",
        provenance.trained.encoders.format(image=image, text=text),
        f"distillation: {', '.join(settings)}",
        f"chosen: {provenance.selection}",
        f"width of the shared space: {provenance.width}, temperature {provenance.temperature}",
        f"students' learning rates: {synthetic.rate_image:.6g} ({provenance.trained.image_side}), "
        f"{synthetic.rate_text:.6g} (text head); loss: {provenance.loss}",
        f"students' recipe: {', '.join(recipe)}",
        f"size of what students train on: {provenance.stored_bytes / 1000:.0f} kB",
        f"made by raydd {provenance.raydd} on {opened.made}, record {opened.fingerprint}",
    )


def _score_section(scores: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        message = (
            "None are known. `raydd evaluate --set FOLDER` computes and stores them, and the next export lists them; "
            "FOLDER is the set as raydd stored it."
        )
        return f"## Scores\n\n{message}\n"
    lines = [
        "## Scores",
        "",
        "Percent, mean ± standard deviation over student seeds. IR: text to image, TR: image to text. No choice was "
        "made on test.",
        "",
        f"| split | seeds | {' | '.join(METRICS)} |",
        f"|---|---|{'---|' * len(METRICS)}",
    ]
    for split, row in scores.items():
        cells = [f"{row[metric]['mean']:.1f} ± {row[metric]['std']:.1f}" for metric in METRICS]
        lines.append(f"| {split} | {len(row['r_mean']['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _list_section(title: str, points: Sequence[str]) -> Sequence[str]:
    return (f"## {title}\n", "\n".join(f"- {point}" for point in points) + "\n")
