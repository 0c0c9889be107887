"""Summarise what pip-audit found in the installed packages, and name the packages that it could not check.

pip-audit itself says "No known vulnerabilities found" even for packages that its index does not know.
"""

import json
import sys
from pathlib import Path


def summary(report: Path, said: str) -> str:
    """Return a summary of some lines; the first begins with "audited" only if the index knows at least one package.

    Args:
        report: pip-audit's JSON report; missing or broken if pip-audit did not finish.
        said: pip-audit's output on the terminal.
    """
    try:
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError):
        why = said.strip().splitlines() or ["it did not finish"]
        return f"NOT AUDITED: pip-audit ended without a report ({why[-1][:300]})"
    packages = [each for each in packages if "editable" not in each.get("skip_reason", "")]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    known = len(packages) - len(unknown)
    if not known:
        return f"NOT AUDITED: the index knows none of {len(packages)} packages. Run this where PyPI's JSON API answers."
    weak = [
        f"{each['name']} {each['version']}: {weakness['id']}, fixed in {', '.join(weakness['fix_versions']) or 'none'}"
        for each in packages
        for weakness in each.get("vulns", [])
    ]
    left = [f"NOT AUDITED, since the index does not know them: {', '.join(unknown)}"] if unknown else []
    return "\n".join([f"audited: {known} of {len(packages)} packages, {len(weak)} known vulnerabilities", *left, *weak])


if __name__ == "__main__":
    print(summary(Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8", errors="replace")))
