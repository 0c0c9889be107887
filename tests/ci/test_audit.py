import json
from pathlib import Path

import pytest
from scripts import loaded

_FILE = Path(__file__).parents[2] / ".ci/audit.py"


@pytest.fixture(scope="module")
def audit():
    return loaded(_FILE)


def known(name: str, *weak: str) -> dict:
    return {"name": name, "version": "1.0", "vulns": [{"id": each, "fix_versions": ["1.1"]} for each in weak]}


def skipped(name: str, why: str = "Dependency not found on PyPI and could not be audited") -> dict:
    return {"name": name, "skip_reason": why}


OWN = skipped("raydd", "distribution marked as editable")


@pytest.mark.parametrize(
    ("packages", "lines"),
    [
        ([known("a"), known("b"), OWN], ["audited: 2 of 2 packages, 0 known vulnerabilities"]),
        (
            [known("a", "CVE-1"), skipped("b"), skipped("c"), OWN],
            [
                "audited: 1 of 3 packages, 1 known vulnerabilities",
                "NOT AUDITED, since the index does not know them: b, c",
                "a 1.0: CVE-1, fixed in 1.1",
            ],
        ),
        (
            [skipped("a"), skipped("b"), OWN],
            ["NOT AUDITED: the index knows none of 2 packages. Run this where PyPI's JSON API answers."],
        ),
    ],
)
def test_what_the_index_did_not_tell_of_is_never_taken_for_audited(audit, tmp_path: Path, packages: list, lines: list):
    (tmp_path / "report").write_text(json.dumps({"dependencies": packages}))
    said = "No known vulnerabilities found"
    assert audit.summary(tmp_path / "report", said).splitlines() == lines


@pytest.mark.parametrize("report", [None, "", "{"])
def test_an_audit_that_did_not_end_is_none(audit, tmp_path: Path, report: str | None):
    if report is not None:
        (tmp_path / "report").write_text(report)
    told = audit.summary(tmp_path / "report", "a\nConnectionError: no route\n")
    assert told == "NOT AUDITED: pip-audit ended without a report (ConnectionError: no route)"
    assert audit.summary(tmp_path / "report", "").endswith("(it did not finish)")
