"""Check every file of the store, and list the files that are not as raydd wrote them; exit code 1 if one is left.

damaged: the content is not what was written. foreign: the file belongs to another record. unsealed: it has no checksum.
orphaned: it was left by a run that was killed. unknown: raydd stores no file of that name.
"""

import sys
from collections import Counter
from dataclasses import dataclass

from raydd import cli
from raydd.errors import ConfigError
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Check every file of the store."""

    delete: bool = False
    """List and then delete files that are damaged, misplaced (foreign), without a checksum (unsealed) or left over
    (orphaned). The next run makes again what it needs."""
    yes: bool = False
    """Delete without asking."""


def main(options: Options) -> int:
    """List the faulty files, delete them with --delete, and print how many are left."""
    from raydd.place import open_store
    from raydd.store.verify import DELETABLE, delete, verify
    from raydd.terminal.progress import progress_on

    asks_first = options.delete and not options.yes
    if asks_first and not sys.stdin.isatty():
        raise ConfigError("raydd verify --delete asks before it deletes, but there is no terminal. Add --yes.")
    store, console = open_store(options.settings.place), open_console()
    with progress_on() as progress:
        verification = verify(store, progress)
    for finding in verification.findings:
        console.print(f"{finding.kind}: {finding.name} {finding.reason}", soft_wrap=True, markup=False, highlight=False)
    size = f"{verification.bytes / 1e9:.2f} GB"
    console.print(
        f"{verification.records} records with {verification.files} files in {store.root}, {size}.", soft_wrap=True
    )
    if verification.without_upstream:
        console.print(f"{verification.without_upstream} of them were made from a record that no longer exists.")
    if not verification.findings:
        console.print("Nothing is wrong.")
        return 0
    kinds = Counter(finding.kind for finding in verification.findings)
    console.print(f"Wrong: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}.")
    deletable = [finding for finding in verification.findings if finding.kind in DELETABLE]
    if not options.delete:
        if deletable:
            console.print("`raydd verify --delete` deletes these files, except the unknown ones.")
        return 1
    if asks_first and console.input(f"Delete {len(deletable)} of them? [y/N] ").strip().lower() not in ("y", "yes"):
        console.print("Nothing was deleted.")
        return 1
    deleted = delete(store, deletable)
    console.print(f"{len(deleted)} deleted. Run the command that needs them again: it makes what is missing.")
    return 1 if len(deleted) < len(verification.findings) else 0
