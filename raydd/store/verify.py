"""Checks a store: finds files that are not what raydd wrote there, and files that nothing needs.

`verify` only reads. `delete` checks each file again before it deletes the file, so that a run that writes to the store
at the same time loses nothing.
"""

import errno
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydd.errors import RecordError
from raydd.progress import Progress, silent
from raydd.store.records import LENGTH, MANIFEST, Record
from raydd.store.seals import sealable
from raydd.store.storage import Store, StoreEntry

Kind = Literal["damaged", "foreign", "unsealed", "orphaned", "unknown"]
DELETABLE: tuple[Kind, ...] = ("damaged", "foreign", "unsealed", "orphaned")
STAGES = {
    "pairs": True,
    "texts": True,
    "features": True,
    "experts": False,  # files are added when longer or more trajectories are needed
    "selections": True,
    "forgetting": True,
    "synthetic": True,
    "pixels": False,  # the files are the parts of a search, from which an interrupted run continues
    "scores": True,
    "hits": True,
    "curves": True,
    "transfers": True,
    "galleries": True,
}
"""Every stage that keeps records, and whether its finished records have a manifest."""
QUIET_SECONDS = 3600.0  # a running writer writes at least once within this time
PROBE = "probe-"
"""Beginning of the name of a small file that a command writes and deletes to try the store; 16 hex digits follow."""
_UPSTREAM = {"experts": "experts", "features_set": "synthetic", "synthetic": "synthetic", "texts": "texts"}
_RAY_FOLDER = "ray-runs"  # Ray's own files, in a bucket next to the records
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
_PART_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.part")
_PROBE_NAME = re.compile(rf"{PROBE}[0-9a-f]{{16}}")
_READERS = 4


@dataclass(frozen=True)
class Finding:
    """One problem in a store."""

    name: str
    """Name of the file, or of the record if it is orphaned."""
    kind: Kind
    """damaged: the content is not what was written. foreign: the file belongs to another place. unsealed: it has no
    checksum. orphaned: left by a writer that was killed. unknown: raydd keeps nothing of this name, and `delete` leaves
    it."""
    reason: str
    """Text that follows the name in a sentence."""


@dataclass(frozen=True)
class Verification:
    """Result of checking a store."""

    records: int
    files: int
    bytes: int
    without_upstream: int
    """Number of records of which an upstream record is missing from the store. They can be used as they are."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Inspection:
    """What the listing and the manifest of a record show, before its files are read."""

    findings: list[Finding]
    to_read: list[tuple[str, str]]
    """Name and listed SHA-256 ("" if not listed) of each file that is still to be read."""
    upstream: Mapping[str, Any]


def verify(store: Store, progress: Progress = silent) -> Verification:
    """Read and check every file of every record.

    Args:
        store: a folder or a bucket. A bucket is read itself, not this machine's copies of its files.
        progress: called with `manifests read`, then with `files read`.

    Raises:
        RecordError: the store's folder does not exist.
    """
    if store.folder is not None and not store.folder.is_dir():
        raise RecordError(f"There is no store in {store.root}. Set place.store or place.home to where it is.")
    entries = [item for item in store.listing() if not item.name.startswith(f"{_RAY_FOLDER}/")]
    records, findings = _group_by_record(entries)
    inspected: list[_Inspection] = []
    to_read: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_READERS) as pool:  # a bucket takes long to answer, and SHA-256 releases the GIL
        for inspection in pool.map(lambda record: _inspect_record(store, *record), records.items()):
            inspected.append(inspection)
            findings += inspection.findings
            to_read += inspection.to_read
            progress("manifests read", len(inspected), len(records))
        for done, file_findings in enumerate(pool.map(lambda file: _check_file(store, *file), to_read), start=1):
            findings += file_findings
            progress("files read", done, len(to_read))
    files = [item for item in entries if not item.is_folder]
    return Verification(
        records=len(records),
        files=len(files),
        bytes=sum(item.bytes for item in files),
        without_upstream=sum(_lacks_upstream(inspection.upstream, records) for inspection in inspected),
        findings=tuple(sorted(findings, key=lambda finding: finding.name)),
    )


def delete(store: Store, findings: Iterable[Finding]) -> tuple[str, ...]:
    """Delete the files with problems, if the problems still exist, and return the deleted names.

    Before a file of a record is deleted, the record's manifest is deleted, so that the record never counts as complete
    without the file. The next run that needs the record creates what is missing.

    Args:
        store: the store that `verify` has read.
        findings: the findings to act on. Findings of kind unknown are not deleted.
    """
    deleted, files_by_record = [], defaultdict(set)
    for finding in findings:
        if finding.kind not in DELETABLE:
            continue
        if _is_temporary(finding.name):  # its writer is dead, and no other writer uses this name
            store.remove(finding.name)
            deleted.append(finding.name)
        else:
            files_by_record["/".join(finding.name.split("/")[:2])].add(finding.name)
    for key, names in files_by_record.items():
        entries = store.listing(key)
        inspected = _inspect_record(store, key, entries)
        confirmed = [finding for finding in inspected.findings if finding.name in names]
        for name, sha256 in inspected.to_read:
            confirmed += _check_file(store, name, sha256) if name in names else []
        faulty = {finding.name for finding in confirmed if finding.kind in DELETABLE}
        _delete_faulty(store, key, faulty, entries)
        deleted += sorted(faulty)
    return tuple(deleted)


def _delete_faulty(store: Store, key: str, faulty: Collection[str], entries: Sequence[StoreEntry]) -> None:
    folders = {item.name for item in entries if item.is_folder}
    if faulty and f"{key}/{MANIFEST}" not in folders:
        store.remove(f"{key}/{MANIFEST}")
    for name in [item.name for item in entries if not item.is_folder] if key in faulty else faulty:
        if name in folders:
            store.remove_folder(name)
        else:
            store.remove(name)


def _group_by_record(entries: Sequence[StoreEntry]) -> tuple[dict[str, list[StoreEntry]], list[Finding]]:
    """Return the entries of each record by `stage/fingerprint`, and findings for entries elsewhere."""
    records, unknown_counts, findings = defaultdict(list), defaultdict(int), []
    for item in entries:
        stage, *rest = item.name.split("/")
        if stage in STAGES and len(rest) > 1 and _FINGERPRINT.fullmatch(rest[0]):
            records[f"{stage}/{rest[0]}"].append(item)
        elif _is_temporary(item.name):
            findings += _abandoned(item)
        elif not item.is_folder:
            unknown_counts[stage if stage not in STAGES else "/".join([stage, *rest[:1]])] += 1
    for name, count in unknown_counts.items():
        files = f"{count} files" if count > 1 else "1 file"
        findings.append(Finding(name, "unknown", f"is not a record of any stage of raydd ({files})"))
    return dict(records), findings


def _inspect_record(store: Store, key: str, entries: Sequence[StoreEntry]) -> _Inspection:
    findings, stage = [], key.split("/")[0]
    blocking_folders = [item.name for item in entries if item.is_folder and (_has_record_suffix(item.name))]
    findings += [Finding(name, "damaged", "is a folder where a file belongs") for name in blocking_folders]
    files, manifest_name = [], f"{key}/{MANIFEST}"
    for item in entries:
        if item.is_folder or any(item.name.startswith(f"{name}/") for name in blocking_folders):
            continue
        if _is_temporary(item.name):
            findings += _abandoned(item)
        else:
            files.append(item)
    names = {item.name for item in files}
    manifest: Mapping[str, Any] = {}
    if manifest_name in names:
        manifest, manifest_findings = _read_manifest(store, key)
        findings += manifest_findings
    elif STAGES[stage] and manifest_name not in blocking_folders and files:
        quiet_seconds = time.time() - max(item.changed for item in files)
        if quiet_seconds > QUIET_SECONDS:
            reason = (
                f"has no {MANIFEST} and was not written to for {quiet_seconds / 3600:.0f} h: the run was interrupted"
            )
            return _Inspection([*findings, Finding(key, "orphaned", reason)], [], {})
    listed_digests = {f"{key}/{name}": str(digest) for name, digest in manifest.get("files", {}).items()}
    findings += [
        Finding(name, "damaged", "is missing, but its record's manifest lists it")
        for name in sorted(set(listed_digests) - names - set(blocking_folders))
    ]
    to_read = []
    for name in sorted(names - {manifest_name}):
        if sealable(name) or name in listed_digests:
            to_read.append((name, listed_digests.get(name, "")))
        elif manifest:
            findings.append(Finding(name, "unknown", "is not listed by its record's manifest"))
    return _Inspection(findings, to_read, manifest.get("upstream", {}))


def _read_manifest(store: Store, key: str) -> tuple[Mapping[str, Any], list[Finding]]:
    """Return a record's manifest, or findings of what is wrong with it."""
    name = f"{key}/{MANIFEST}"
    if findings := _check_file(store, name):
        return {}, findings
    store.forget(name)
    stage, fingerprint = key.split("/")
    try:
        return Record(store, stage, fingerprint, {}, {}).manifest(), []
    except RecordError as error:
        if not store.exists(name):  # deleted since the store was listed
            return {}, []
        return {}, [Finding(name, "damaged", str(error).removeprefix(f"{store.root}/{name} ").split(". ")[0])]


def _check_file(store: Store, name: str, sha256: str = "") -> list[Finding]:
    """Return what is wrong with the content of one file."""
    try:
        fault = store.fault(name, sha256)
    except RecordError:  # a checkpoint that a run has deleted since the store was listed
        return []
    except OSError as error:
        kind = "damaged" if error.errno == errno.EIO else "unknown"
        return [Finding(name, kind, f"cannot be read ({error.strerror or error})")]
    return [Finding(name, fault.kind, fault.reason)] if fault else []


def _is_temporary(name: str) -> bool:
    """Whether a file is there for a moment only: a file that is being written, or a probe of the store."""
    return bool(_PART_NAME.fullmatch(name.split("/")[-1]) or _PROBE_NAME.fullmatch(name))


def _abandoned(item: StoreEntry) -> list[Finding]:
    if item.is_folder or time.time() - item.changed < QUIET_SECONDS:
        return []
    kind = "a probe of the store" if item.name.startswith(PROBE) else "an incomplete file"
    return [Finding(item.name, "orphaned", f"is {kind}, which a killed writer left")]


def _has_record_suffix(name: str) -> bool:
    return sealable(name) or Path(name).suffix in (".parquet", ".png")


def _lacks_upstream(upstream: Mapping[str, Any], records: Mapping[str, Any]) -> bool:
    return any(
        name in _UPSTREAM and f"{_UPSTREAM[name]}/{fingerprint}" not in records
        for name, fingerprint in upstream.items()
    )
