"""What Debian's packages bring, installed where that may be done: by root, where there is apt-get."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from common import SetUpError, say
from interpreters import Interpreter, find_interpreters

# Debian's first; the others are what Ubuntu and the machines of CI services may have in its place.
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BROWSER_PACKAGES = ["chromium", "fonts-liberation"]

# What makes two hosts of one machine: their tools, and the packages that have them.
NETWORK_TOOLS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables"}

# What stands in front of a server in docs/howto/behind-a-proxy.md.
PROXIES = {"nginx": "nginx-light", "haproxy": "haproxy"}

# Without the second, the start-up code of the first finds no symbols of the C library and refuses to run.
VALGRIND_PACKAGES = ["valgrind", "libc6-dbg"]

POLICY = Path("/usr/sbin/policy-rc.d")

# apt-get waits for others who install, but not for others who update.
APT = threading.Lock()


@contextlib.contextmanager
def no_services_started() -> Iterator[None]:
    """Keeps a package from starting what it brings: a web server installed for tests is not to serve."""
    # Debian's own switch (invoke-rc.d(8)); one that is there already is for others to decide on.
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install_packages(names: list[str]) -> None:
    """Installs packages, or does nothing where it may not; whether they are there now, others have to ask."""
    if not names or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    say(f"installing {' '.join(names)}")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    with APT, no_services_started():
        # One package source out of order must not end this: what is really missing, the install will tell.
        subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )


def install_missing(interpreters: list[Interpreter]) -> list[Interpreter]:
    """Installs what Debian keeps in packages of their own; answers who is ready then.

    Raises:
        SetUpError: There is no C compiler.
    """
    wanted = [name for i in interpreters if i.prefix == "/usr" for name in i.missing_packages()]
    if not has_compiler():
        wanted += ["gcc", "libc6-dev"]
    if wanted:
        install_packages(wanted)
        found = {i.minor: i for i in find_interpreters()[0]}
        interpreters = [found[i.minor] for i in interpreters]
    if not has_compiler():
        raise SetUpError("there is no C compiler (Debian: apt-get install gcc libc6-dev)")
    return interpreters


def has_compiler() -> bool:
    words = os.environ.get("CC", "").split()[:1]
    return any(shutil.which(name) for name in (*words, "cc", "gcc", "clang"))


def provide_browser() -> str:
    """The path of a Chromium; the environment variable CHROMIUM names one that is not on PATH.

    Raises:
        SetUpError: There is none, and none could be installed.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        if shutil.which(named) is None:
            raise SetUpError(f"CHROMIUM is {named!r}, which is no program")
        return named
    if find_browser() is None:
        install_packages(BROWSER_PACKAGES)
    found = find_browser()
    if found is None:
        raise SetUpError(f"there is no Chromium (Debian: apt-get install {' '.join(BROWSER_PACKAGES)})")
    return found


def lacking(tools: dict[str, str]) -> list[str]:
    """The packages of those tools that are not there."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return sorted({package for tool, package in tools.items() if not shutil.which(tool, path=path)})


def provide_network_tools() -> None:
    """Installs what the tests between two network namespaces need; where they cannot run, they say why."""
    install_packages(lacking(NETWORK_TOOLS) if sys.platform == "linux" else [])


def provide_proxies() -> None:
    """Installs what docs/howto puts in front of a server; where it cannot be had, the tests say why."""
    install_packages(lacking(PROXIES))


def provide_valgrind() -> None:
    """Has valgrind on PATH.

    Raises:
        SetUpError: It is not there, and could not be installed.
    """
    if shutil.which("valgrind") is None:
        install_packages(VALGRIND_PACKAGES)
    if shutil.which("valgrind") is None:
        raise SetUpError("there is no valgrind (Debian: apt-get install valgrind)")


def provide_all() -> None:
    """Installs at once what the functions above install one by one; what fails here, they try again."""
    wanted = lacking(PROXIES) + (lacking(NETWORK_TOOLS) if sys.platform == "linux" else [])
    if not os.environ.get("CHROMIUM") and find_browser() is None:
        wanted += BROWSER_PACKAGES
    if shutil.which("valgrind") is None:
        wanted += VALGRIND_PACKAGES
    install_packages(wanted)


def find_browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def main() -> None:
    """Provides PROGRAM by PACKAGE, or says that it is missing: who asked goes on without it."""
    program, package = sys.argv[1:]
    if shutil.which(program) is None:
        install_packages([package])
    if shutil.which(program) is None:
        say(f"{program} is missing, and what needs it is left out (Debian: apt-get install {package})")


if __name__ == "__main__":
    main()
