"""The source distribution, what is installed, and what installing does; `make wheels` proves more."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import types
from importlib.metadata import distribution
from pathlib import Path

import pytest

import sockrpc
from tests.kit.processes import ROOT

# Not about versions of Python: on one interpreter only.
pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(sys.platform == "win32", reason="environments are made on a Unix only"),
]

LIMIT_SECONDS = 100


def execute(*command: str | Path, cwd: Path = ROOT, code: int = 0, **environ: str) -> str:
    """What a command printed, which must end with this exit code."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distributions() -> types.ModuleType:
    # Scripts import each other by their plain names, as Python has it for files that are run.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("distributions")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    execute(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The files of the package that these tests run on."""
    files = distribution("sockrpc").files
    assert files is not None
    names = {file.as_posix() for file in files}
    return {name for name in names if name.startswith("sockrpc/") and not name.endswith(".pyc")}


def test_the_tests_run_on_what_is_installed() -> None:
    assert "site-packages" in Path(sockrpc.__file__).parts


def test_what_is_installed_is_the_package_and_nothing_else(
    distributions: types.ModuleType, installed: set[str]
) -> None:
    distributions.check_installed(installed, "the installed package")
    suffixes = {Path(name).suffix for name in installed}
    assert {".py", ".pyi", ".typed", ".js", ".html"} <= suffixes
    assert not {".c", ".pyx", ".pxd", ".h"} & suffixes


@pytest.mark.parametrize(
    ("more", "less", "told"),
    [
        ({"sockrpc/_frames.pyx"}, set(), "too much: sockrpc/_frames.pyx"),
        ({"sockrpc/_frames.c"}, set(), "too much: sockrpc/_frames.c"),
        (set(), {"sockrpc/_frames.pyi"}, "missing: sockrpc/_frames.pyi"),
        (set(), {"sockrpc/js/sockrpc.js"}, "missing: sockrpc/js/sockrpc.js"),
    ],
)
def test_a_file_too_many_or_too_few_would_be_found(
    more: set[str], less: set[str], told: str, distributions: types.ModuleType, installed: set[str]
) -> None:
    with pytest.raises(distributions.Wrong, match=re.escape(told)):
        distributions.check_installed((installed | more) - less, "the installed package")


def test_the_source_distribution_has_all_of_the_repository(
    distributions: types.ModuleType, sdist: Path
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the repository is known to git only")
    distributions.check_sdist(sdist)


def test_its_description_is_good_for_an_index(sdist: Path) -> None:
    assert "PASSED" in execute(sys.executable, "-m", "twine", "check", "--strict", sdist)


def test_a_release_has_a_wheel_for_everything_that_cibuildwheel_builds(
    distributions: types.ModuleType,
) -> None:
    machines = {"linux": ("x86_64", "aarch64"), "macos": ("x86_64", "arm64"), "windows": ("AMD64", "ARM64")}
    built: set[str] = set()
    for platform, names in machines.items():
        command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform]
        for name in names:
            built |= set(execute(*command, "--archs", name).split())
    wanted = {
        f"cp{interpreter.partition('-cp')[2]}-{system}"
        for interpreter in distributions.INTERPRETERS
        for system in distributions.SYSTEMS
    }
    assert built == wanted
    assert len(built) == 56


def test_an_incomplete_release_is_told(distributions: types.ModuleType, tmp_path: Path) -> None:
    version = distribution("sockrpc").version
    systems = {
        "manylinux": "manylinux_2_17",
        "musllinux": "musllinux_1_2",
        "macosx": "macosx_11_0",
        "win": "win",
    }
    for interpreter in distributions.INTERPRETERS:
        for system in distributions.SYSTEMS:
            name, _, machine = system.partition("_")
            (tmp_path / f"sockrpc-{version}-{interpreter}-{systems[name]}_{machine}.whl").touch()
    (tmp_path / f"sockrpc-{version}.tar.gz").touch()
    distributions.check_complete(tmp_path)
    (tmp_path / f"sockrpc-{version}-cp314-cp314t-musllinux_1_2_aarch64.whl").unlink()
    with pytest.raises(distributions.Wrong, match="missing: cp314-cp314t-musllinux_aarch64"):
        distributions.check_complete(tmp_path)


def test_what_is_no_longer_packaged_does_not_come_back_from_an_earlier_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    environments = importlib.import_module("environments")
    root, stage = tmp_path / "root", tmp_path / "stage"
    (root / "src").mkdir(parents=True)
    gathered = stage / "build" / "release" / "lib.system" / "sockrpc"
    gathered.mkdir(parents=True)
    for settings, left in (("first", {"note.txt", "_frames.so"}), ("second", {"_frames.so"})):
        (root / "pyproject.toml").write_text(settings)
        for name in ("note.txt", "_frames.so"):
            (gathered / name).touch()
        environments.stage_sources(stage, root)
        assert {path.name for path in gathered.iterdir()} == left
        assert (stage / "pyproject.toml").read_text() == settings


def test_without_a_compiler_one_sentence_says_so(sdist: Path, tmp_path: Path) -> None:
    output = execute(
        *(sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-cache-dir"),
        *("--disable-pip-version-check", "--target", tmp_path / "target", sdist),
        code=1,
        CC="no-such-compiler",
    )
    told = [line for line in output.splitlines() if "needs a C compiler" in line]
    assert len(told) == 1
    assert told[0].strip() == (
        "error: there is no wheel of sockrpc for this Python and system, and compiling it needs a C "
        "compiler: no-such-compiler was not found (Debian: apt-get install gcc libc6-dev)"
    )
    # What pip itself says around it, and no more: neither files that were copied nor a traceback.
    assert "Traceback" not in output
    assert "copying" not in output
    assert len(output.splitlines()) < 40


def test_uninstalling_leaves_nothing(tmp_path: Path) -> None:
    wheels = Path(os.environ["SOCKRPC_WHEEL"])
    execute(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", f"--python={python}"]

    def files() -> set[Path]:
        return {path for path in (tmp_path / "venv").rglob("*") if path.suffix != ".pyc"}

    before = files()
    execute(*pip, "install", "--no-deps", "--no-index", wheels)
    assert len(files() - before) > 80
    execute(*pip, "uninstall", "--yes", "sockrpc")
    assert files() == before
