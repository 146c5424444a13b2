"""Print the licences of the packages in scripts/requirements.txt as Markdown, as the packages themselves state them."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def locked() -> list[tuple[str, str]]:
    """Name and version of every package."""
    return re.findall(r"^([\w.-]+)==([\w.+!]+)", REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE)


def licence(package: str) -> str:
    """Its SPDX expression, else its classifiers, else what it says in a line."""
    try:
        stated = metadata(package)
    except PackageNotFoundError:
        return "(not installed on the system where this was written)"
    classifiers = [text.rpartition(" :: ")[2] for text in stated.get_all("Classifier") or () if "License ::" in text]
    words = (stated["License"] or "").strip()
    line = "not stated" if words in ("", "UNKNOWN") or "\n" in words else words
    return stated["License-Expression"] or ", ".join(classifiers) or line


def main() -> None:
    """Print the table."""
    print("# Licences of the packages that graft is developed and tested with\n")
    print("graft itself is under the MIT licence. `scripts/lock` writes this list.\n")
    print("| package | version | licence |\n| --- | --- | --- |")
    for package, version in locked():
        print(f"| {package} | {version} | {licence(package)} |")


if __name__ == "__main__":
    main()
