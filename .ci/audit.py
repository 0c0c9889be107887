"""Say what pip-audit found in the installed packages, and of which it found nothing because it could not look.

pip-audit itself says "No known vulnerabilities found" of packages that its index did not tell it about.
"""

import json
import sys
from pathlib import Path


def summary(report: Path, said: str) -> str:
    """Some lines whose first begins with "audited" only if the index told of a package.

    Args:
        report: pip-audit's JSON; missing or broken if it did not come to its end.
        said: what it wrote to the terminal.
    """
    try:
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError):
        why = said.strip().splitlines() or ["it did not end"]
        return f"NOT AUDITED: pip-audit ended without a report ({why[-1][:300]})"
    packages = [each for each in packages if "editable" not in each.get("skip_reason", "")]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    known = len(packages) - len(unknown)
    if not known:
        return f"NOT AUDITED: the index told of none of {len(packages)} packages. Audit where PyPI's JSON API answers."
    weak = [
        f"{each['name']} {each['version']}: {weakness['id']}, mended in {', '.join(weakness['fix_versions']) or 'none'}"
        for each in packages
        for weakness in each.get("vulns", [])
    ]
    left = [f"NOT AUDITED, since the index does not know them: {', '.join(unknown)}"] if unknown else []
    return "\n".join([f"audited: {known} of {len(packages)} packages, {len(weak)} known weaknesses", *left, *weak])


if __name__ == "__main__":
    print(summary(Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8", errors="replace")))
