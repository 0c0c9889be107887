"""Run one distillation, from image-caption pairs to scores. Finished stages are reused. The last line names the set."""

import json
from dataclasses import dataclass
from pathlib import Path

from raydd import cli
from raydd.plain_files import require_writable
from raydd.terminal.console import open_console
from raydd.terminal.text import scores_table, students_in_words


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Run one distillation from pairs to scores."""

    json: Path | None = None
    """Also write the scores and their settings to this file."""


def main(options: Options) -> int:
    """Run the stages and print the scores."""
    from raydd.device import use_threads
    from raydd.place import open_store
    from raydd.preflight import require_ready
    from raydd.protocols import open_workbench
    from raydd.stages import run
    from raydd.terminal.progress import progress_on

    config = options.settings
    if options.json:
        require_writable(options.json, "--json")
    use_threads(config.place)
    console = open_console()
    require_ready(config, "run", lambda text: console.print(text, markup=False, soft_wrap=True))
    store = open_store(config.place)
    with progress_on(console) as progress:
        work = open_workbench(config, store, progress)
        for line in work.data.summary():
            console.print(line)
        result = run(work)
    rows = {name: row for name, row in result.items() if name != "made"}
    title = f"{config.evaluate.split}, {config.distill.pairs} pairs, {students_in_words(config.evaluate)}, percent"
    console.print(scores_table(rows, title))
    console.print(f"synthetic set: {store.root}/{result['made']['synthetic_record']}", soft_wrap=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
        console.print(f"scores: {options.json}", soft_wrap=True)
    return 0
