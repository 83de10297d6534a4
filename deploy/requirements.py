"""Prints what an extra of a project needs, a line each: `python requirements.py pyproject.toml pipeline`."""

import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extra: str) -> list[str]:
    """The project's own requirements and those of an extra, with those of the project's extras that it names."""
    found = list(project["dependencies"])
    pending = [extra]
    while pending:
        for requirement in project["optional-dependencies"][pending.pop()]:
            if requirement.startswith(f"{project['name']}["):
                pending += requirement.partition("[")[2].rstrip("]").split(",")
            else:
                found.append(requirement)
    return found


if __name__ == "__main__":
    file, extra = sys.argv[1:]
    sys.stdout.write("\n".join(requirements(tomllib.loads(Path(file).read_text())["project"], extra)) + "\n")
