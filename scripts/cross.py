"""Builds for another machine with zig's C compiler, and tests the result under qemu.

This is a smoke test: cibuildwheel makes the releases on machines of that kind.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

from common import ROOT, clean_environ, output_of
from distributions import Wrong
from environments import make_environment, read_project
from interpreters import Interpreter, find_interpreters
from packages import install_packages

MACHINE = "aarch64"
DEBIAN_MACHINE = "arm64"
# The C library to build for, which zig brings along.
LIBRARY = "2.17"
TAG = f"manylinux_2_17_{MACHINE}"
WORK = ROOT / "build" / "cross"
# These cover bytes, tables, calls, resets and threads on both loops, in about a minute under qemu.
TESTS = (
    "tests/test_frames.py",
    "tests/websocket/test_messages.py",
    "tests/test_app.py",
    "tests/peer/test_threads.py",
)
REQUIREMENTS = ("pytest>=9", "pytest-timeout>=2.4", "hypothesis>=6.140")
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")


def compile_wheel(source: Path, interpreter: Interpreter) -> Path:
    """Build the wheel, and let auditwheel confirm its policy.

    Raises:
        SetUpError: It does not compile.
        Wrong: It needs more than the policy allows.
    """
    python = make_environment(interpreter, f"cross-{interpreter.minor}", ["cross"], package=False)
    compiler = WORK / "cc"
    WORK.mkdir(parents=True, exist_ok=True)
    # Use a file, because tools disagree on how to read a command of several words.
    compiler.write_text(
        f'#!/bin/sh\nexec "{python}" -m ziglang cc -target {MACHINE}-linux-gnu.{LIBRARY} "$@"\n'
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    wheels = WORK / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    version = interpreter.minor.replace(".", "")
    build = ["wheel", "--no-build-isolation", "--no-deps", "-w", str(wheels), str(source)]
    output_of(
        [str(python), "-m", "pip", *build],
        what="zig's compiler",
        environ={
            **clean_environ(),
            "CC": str(compiler),
            "LDSHARED": f"{compiler} -shared",
            "CFLAGS": "",
            "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
            "_PYTHON_HOST_PLATFORM": f"linux-{MACHINE}",
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version}-{MACHINE}-linux-gnu.so",
        },
    )
    wheel = next(wheels.glob("*.whl"))
    shown = subprocess.run(
        [str(python), "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True, check=False
    )
    if f'"{TAG}"' not in shown.stdout:
        raise Wrong(f"{wheel.name} is not of the policy {TAG}:\n{shown.stdout}{shown.stderr}")
    return wheel


def provide_system() -> tuple[str, Path, str] | None:
    """Return qemu, the root of a system for it, and its version of Python; None if they are not available."""
    if sys.platform != "linux" or shutil.which("apt-get") is None or os.geteuid() != 0:
        return None
    if shutil.which(f"qemu-{MACHINE}-static") is None:
        install_packages(["qemu-user-static"])
    qemu = shutil.which(f"qemu-{MACHINE}-static")
    if qemu is None:
        return None
    root, apt = WORK / "root", WORK / "apt"
    found = sorted(root.glob("usr/bin/python3.[0-9]*[0-9]"))
    if not found:
        for folder in ("lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        # Install beside the packages of this machine, without any effect on them.
        command = ["apt-get", "-qq", "-o", f"APT::Architecture={DEBIAN_MACHINE}"]
        command += ["-o", f"APT::Architectures={DEBIAN_MACHINE}", "-o", "APT::Sandbox::User=root"]
        command += ["-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::State::status={apt / 'status'}"]
        command += ["-o", f"Dir::Cache={apt / 'cache'}"]
        subprocess.run([*command, "update"], stdin=subprocess.DEVNULL, check=False)
        output_of([*command, "install", "-y", "--no-install-recommends", "--download-only", "python3"])
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            output_of(["dpkg-deb", "--extract", str(package), str(root)])
        found = sorted(root.glob("usr/bin/python3.[0-9]*[0-9]"))
    return (qemu, root, found[0].name.removeprefix("python")) if found else None


def run_tests(source: Path, wheel: Path, system: tuple[str, Path, str]) -> str:
    qemu, root, minor = system
    packages = WORK / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{MACHINE}")]
    install = [sys.executable, "-m", "pip", "-q", "install", "--target", str(packages)]
    install += [
        "--disable-pip-version-check",
        *platforms,
        "--python-version",
        minor,
        "--only-binary",
        ":all:",
    ]
    output_of([*install, *REQUIREMENTS, *read_project()["project"]["dependencies"]])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    pytest = ["-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=600"]
    told = output_of(
        [qemu, "-L", str(root), str(root / f"usr/bin/python{minor}"), *pytest, *TESTS],
        what="the tests under qemu",
        cwd=source,
        environ={**clean_environ(), "PYTHONPATH": str(packages), "PYTHONHOME": str(root / "usr")},
        error=Wrong,
    )
    return told.rstrip().splitlines()[-1]


def prove(source: Path, newest: Interpreter) -> str:
    """Build, run some tests where possible, and return which."""
    system = provide_system()
    same = [i for i in find_interpreters()[0] if system and i.minor == system[2] and i.is_ready]
    wheel = compile_wheel(source, same[0] if same else newest)
    if not system or not same:
        return f"{wheel.name}: {TAG}; not run: there is no qemu with a Python that is here, too"
    return f"{wheel.name}: {TAG}; under qemu: {run_tests(source, wheel, system)}"
