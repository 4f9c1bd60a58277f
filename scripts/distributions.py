"""The required contents of a source distribution and of a wheel, and the wheels of a release.

As a command it checks all files in a folder; with ``--complete`` none may be missing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from common import ROOT

# On CI's machines the version of macOS is part of the oldest supported tag.
SYSTEMS = (
    *(f"{libc}_{machine}" for libc in ("manylinux", "musllinux") for machine in ("x86_64", "aarch64")),
    *(f"macosx_{machine}" for machine in ("x86_64", "arm64")),
    *(f"win_{machine}" for machine in ("amd64", "arm64")),
)
# The tags of interpreter and ABI.
INTERPRETERS = (
    *(f"cp3{minor}-cp3{minor}" for minor in range(11, 16)),
    *(f"cp3{minor}-cp3{minor}t" for minor in (14, 15)),
)
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
# Files of the repository that a source distribution does not need.
REPOSITORY_ONLY = re.compile(r"\.ci/.*|\.github/.*|\.editorconfig|\.gitignore|\.yamllint\.yaml")
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|src/sockrpc\.egg-info/.*")
EXTENSION = re.compile(r"(sockrpc/\w+(?:/\w+)?)\.[\w-]*\.?(?:so|pyd)")


class Wrong(Exception):
    """A distribution is not as it has to be."""


def difference(what: str, found: set[str], wanted: set[str]) -> None:
    lines = [f"missing: {name}" for name in sorted(wanted - found)]
    lines += [f"too much: {name}" for name in sorted(found - wanted)]
    if lines:
        raise Wrong("\n".join([f"{what} has not what it should have:", *lines]))


def package_files(root: Path = ROOT) -> set[str]:
    """Return the files of an installed package by the sources; ``sockrpc/_frames`` means the extension."""
    source = root / "src"
    files: set[str] = set()
    for path in sorted((source / "sockrpc").rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.suffix == ".pyx":
            files.add(name.removesuffix(".pyx"))
        elif path.suffix in (".py", ".pyi", ".typed") or (path.parent.name in ("js", "demo") and path.suffix):
            files.add(name)
    return files


def check_installed(names: set[str], what: str, root: Path = ROOT) -> None:
    """Check for exactly the files of the package: no C, no .pyx, no .pxd, no stray files."""
    found = {match[1] if (match := EXTENSION.fullmatch(name)) else name for name in names}
    difference(what, found, package_files(root))


def check_wheel(wheel: Path, root: Path = ROOT) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    metadata = {name.removeprefix(info) for name in contents if name.startswith(info)}
    difference(f"{wheel.name}: {info}", metadata - {"sboms/auditwheel.cdx.json"}, METADATA)
    check_installed({name for name in contents if not name.startswith(info)}, wheel.name, root)
    for name, content in contents.items():
        # These are names of sections, which a stripped file lacks.
        if name.endswith(".so") and (b"\0.symtab\0" in content or b"\0.debug_info\0" in content):
            raise Wrong(f"{wheel.name}: {name} has symbols that should have been stripped")


def check_sdist(sdist: Path, root: Path = ROOT) -> None:
    """Check for exactly the files of the repository, minus those that only the repository needs."""
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    tracked = {name for name in listed if name and (root / name).is_file()}
    difference(
        sdist.name,
        {name for name in inside if not GENERATED.fullmatch(name)},
        {name for name in tracked if not REPOSITORY_ONLY.fullmatch(name)},
    )


def kind(wheel: Path) -> str:
    """Return interpreter, ABI and system of a wheel, without the system's version."""
    interpreter, abi, platforms = wheel.stem.split("-")[-3:]
    systems = {re.sub(r"(linux|macosx)_?[\d_]*_", r"\1_", platform) for platform in platforms.split(".")}
    return f"{interpreter}-{abi}-{'.'.join(sorted(systems))}"


def check_complete(folder: Path) -> None:
    """Check for one wheel per interpreter and system, and one source distribution, all of this version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    others = [path.name for path in folder.iterdir() if not path.name.startswith(f"sockrpc-{version}")]
    if others:
        raise Wrong(f"of another version: {', '.join(sorted(others))}")
    found = [kind(wheel) for wheel in folder.glob("*.whl")]
    found += [path.name for path in folder.glob("*.tar.gz")]
    wanted = {f"{interpreter}-{system}" for interpreter in INTERPRETERS for system in SYSTEMS}
    difference(str(folder), set(found), wanted | {f"sockrpc-{version}.tar.gz"})
    if len(found) != len(set(found)):
        raise Wrong("two wheels for one interpreter and system")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--complete", action="store_true", help="all that a release consists of is there")
    options = parser.parse_args()
    try:
        wheels, sdists = list(options.folder.glob("*.whl")), list(options.folder.glob("*.tar.gz"))
        if not wheels and not sdists:
            raise Wrong(f"{options.folder} has no distribution")
        for wheel in wheels:
            check_wheel(wheel)
        for sdist in sdists:
            check_sdist(sdist)
        if options.complete:
            check_complete(options.folder)
    except Wrong as wrong:
        sys.exit(str(wrong))
    print(f"{len(wheels)} wheels and {len(sdists)} source distributions are as they have to be")


if __name__ == "__main__":
    main()
