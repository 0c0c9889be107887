"""Score a synthetic set and its baselines. Without --set, the set is the one that the settings make.

With --set, the set in a folder is scored as it is, with its own encoders. In addition, `evaluate.encoders` scores its
pixels with other encoders, `evaluate.classes` classifies labelled images, and `evaluate.unseen` retrieves on pairs of
another data set. With --outside, a set made by other code is scored in the same way, with the encoders of the settings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.commands import run
from raydd.errors import ConfigError
from raydd.plain_files import require_writable
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(run.Options):
    """Score a synthetic set."""

    set: Path | None = None
    """Folder of a synthetic set, as `raydd run` prints it. The set's own settings are used; settings that you give win,
    but must name the same data and encoders."""
    outside: Path | None = None
    """Score a set made by other code, described by this YAML file (docs/outside.md)."""


def main(options: Options) -> int:
    """Score the set and print the scores."""
    evaluation = options.settings.evaluate
    transfer_tests = evaluation.encoders or evaluation.classes or evaluation.unseen
    if options.set and options.outside:
        raise ConfigError("--set and --outside are both given. Give --set for a set of raydd's, --outside for another.")
    if not (options.set or options.outside or transfer_tests):
        return run.main(options)

    from raydd.code_version import code_version
    from raydd.device import use_threads
    from raydd.evaluate.zero_shot import METRICS
    from raydd.export.scoring import score_foreign, score_set
    from raydd.place import open_store
    from raydd.sets.foreign import read_foreign
    from raydd.sets.provenance import selection_rule
    from raydd.sets.read import open_set, store_of
    from raydd.settings import flatten
    from raydd.terminal.progress import progress_on
    from raydd.terminal.text import count_of, scores_table, students_in_words

    config, console = options.settings, open_console()
    if options.json:
        require_writable(options.json, "--json")
    use_threads(config.place)
    raydd_set = open_set(options.set) if options.set else None
    foreign_set = read_foreign(options.outside) if options.outside else None
    store = store_of(raydd_set, config.place) if raydd_set else open_store(config.place)
    with progress_on() as progress:
        if foreign_set:
            scores = score_foreign(config, store, foreign_set, progress)
        else:
            scores = score_set(config, store, raydd_set, progress)
    tables = scores.as_json()
    title = f"retrieval, {scores.title}, {students_in_words(evaluation)}, percent"
    console.print(scores_table(tables["retrieval"], title))
    if tables["classes"]:
        title = f"zero-shot classes, {scores.title}, {count_of(evaluation.seeds, 'student seed')}, percent"
        console.print(scores_table(tables["classes"], title, METRICS))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        made: dict[str, Any] = {"raydd": code_version()}
        unread = ("place.", "distill.", "pixels.")  # of a set that other code distilled
        if not foreign_set:
            made["selection"], unread = selection_rule(config), ("place.",)
        made["settings"] = {name: value for name, value in flatten(config).items() if not name.startswith(unread)}
        result = {**tables, "row": scores.row.as_json(), "made": made}
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
        console.print(f"scores: {options.json}", soft_wrap=True)
    return 0
