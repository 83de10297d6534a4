"""Checks the installed packages against what is declared and pinned, without a network; part of `make check`.

A package that nothing asks for, a pin that is not what is installed, a pre-release, a package from anywhere but an
index, two versions of one package: each is a line, and exit code 1. It knows nothing of vulnerabilities, for which a
database is needed that changes by the day.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
ROOT = Requirement("dxmc[pipeline,offline,dev]")
#: What a virtual environment starts with.
_INSTALLER = {"pip", "setuptools", "wheel"}
#: Parts of OpenTelemetry that Ray's dashboard needs and that have no other versions.
_ALWAYS_BETA = {"opentelemetry-exporter-prometheus", "opentelemetry-semantic-conventions"}


@dataclass(frozen=True)
class Package:
    """An installed package: its requirements as it declares them, and where it came from when that is no index."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    origin: str | None = None

    @classmethod
    def of(cls, found: Distribution) -> "Package":
        origin = found.read_text("direct_url.json")
        url = json.loads(origin)["url"] if origin else None
        return cls(str(canonicalize_name(found.name)), found.version, tuple(found.requires or ()), url)


def main() -> None:
    lines = [f"error: {problem}" for problem in problems(read_pins(CONSTRAINTS), map(Package.of, distributions()))]
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines += [f"error: pip check: {line}" for line in (done.stdout + done.stderr).splitlines()]
    print("\n".join(lines) or "every installed package is declared and pinned")
    sys.exit(bool(lines))


def read_pins(path: Path) -> dict[str, str]:
    """Versions by canonical name. Raises ValueError for a line that is no `name==version`."""
    pins = {}
    for line in path.read_text().splitlines():
        name, separator, version = line.strip().partition("==")
        if not separator or not version:
            raise ValueError(f"{path}: expected name==version, found {line!r}")
        pins[str(canonicalize_name(name))] = version
    return pins


def problems(pins: Mapping[str, str], installed: Iterable[Package], root: Requirement = ROOT) -> list[str]:
    """What is otherwise than declared and pinned, a line each, by name."""
    found: list[str] = []
    packages: dict[str, Package] = {}
    for package in installed:
        if package.name in packages and packages[package.name].version != package.version:
            found.append(f"{package.name} is installed twice: {packages[package.name].version} and {package.version}")
        packages.setdefault(package.name, package)
    needed = closure(packages, root)
    for name in sorted(needed | packages.keys() | pins.keys()):
        if name == canonicalize_name(root.name) or name in _INSTALLER:
            continue
        package, pin = packages.get(name), pins.get(name)
        if package is None:
            found.append(f"{name} is {'needed' if name in needed else 'pinned'} and not installed")
            continue
        if name not in needed:
            found.append(f"{name} {package.version} is installed, and nothing that is declared needs it")
        if pin is None:
            found.append(f"{name} {package.version} is installed and not pinned in {CONSTRAINTS.name}")
        elif Version(pin) != Version(package.version):
            found.append(f"{name} {package.version} is installed, {CONSTRAINTS.name} pins {pin}")
        if Version(package.version).is_prerelease and name not in _ALWAYS_BETA:
            found.append(f"{name} {package.version} is a pre-release")
        if package.origin is not None:
            found.append(f"{name} {package.version} comes from {package.origin} and not from an index")
    return found


def closure(packages: Mapping[str, Package], root: Requirement) -> set[str]:
    """Canonical names of all that a requirement needs on this machine, by extras and markers; its own too."""
    seen: set[tuple[str, str]] = set()
    left = [(root.name, extra) for extra in ("", *root.extras)]
    while left:
        name, extra = left.pop()
        key = (str(canonicalize_name(name)), extra)
        if key in seen:
            continue
        seen.add(key)
        for text in packages[key[0]].requires if key[0] in packages else ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(requirement.name, inner) for inner in ("", *requirement.extras)]
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
