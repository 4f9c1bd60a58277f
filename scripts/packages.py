"""Installs Debian's packages where that is allowed: by root, if there is apt-get."""

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

# Debian's name comes first; Ubuntu and CI services may have the others in its place.
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BROWSER_PACKAGES = ["chromium", "fonts-liberation"]

# Tools that split a machine into two hosts, and the packages that have them.
NETWORK_TOOLS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables"}

# Proxies that docs/howto/behind-a-proxy.md puts in front of a server.
PROXIES = {"nginx": "nginx-light", "haproxy": "haproxy"}

# Without the second, the start-up code of valgrind finds no symbols of the C library and refuses to run.
VALGRIND_PACKAGES = ["valgrind", "libc6-dbg"]

POLICY = Path("/usr/sbin/policy-rc.d")

# apt-get waits for concurrent installations, but not for concurrent updates.
APT = threading.Lock()


@contextlib.contextmanager
def no_services_started() -> Iterator[None]:
    """Keep a package from starting its service: a web server installed for tests must not serve."""
    # This is Debian's own switch (invoke-rc.d(8)); an existing one is respected.
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
    """Install packages if that is allowed; the caller has to check whether they are there."""
    if not names or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    say(f"installing {' '.join(names)}")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    with APT, no_services_started():
        # A broken package source must not end this; the installation reports packages that are really
        # missing.
        subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )


def install_missing(interpreters: list[Interpreter]) -> list[Interpreter]:
    """Install what Debian keeps in separate packages; return the interpreters that are ready then.

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
    """Return the path of a Chromium; the environment variable CHROMIUM names one that is not on PATH.

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
    """Return the packages of those tools that are missing."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return sorted({package for tool, package in tools.items() if not shutil.which(tool, path=path)})


def provide_network_tools() -> None:
    """Install the tools of the tests between two network namespaces; if they cannot run, they say why."""
    install_packages(lacking(NETWORK_TOOLS) if sys.platform == "linux" else [])


def provide_proxies() -> None:
    """Install the proxies of docs/howto; if they are missing, the tests say why."""
    install_packages(lacking(PROXIES))


def provide_valgrind() -> None:
    """Ensure that valgrind is on PATH.

    Raises:
        SetUpError: It is missing and could not be installed.
    """
    if shutil.which("valgrind") is None:
        install_packages(VALGRIND_PACKAGES)
    if shutil.which("valgrind") is None:
        raise SetUpError("there is no valgrind (Debian: apt-get install valgrind)")


def provide_all() -> None:
    """Install at once what the functions above install one by one; they try failures again."""
    wanted = lacking(PROXIES) + (lacking(NETWORK_TOOLS) if sys.platform == "linux" else [])
    if not os.environ.get("CHROMIUM") and find_browser() is None:
        wanted += BROWSER_PACKAGES
    if shutil.which("valgrind") is None:
        wanted += VALGRIND_PACKAGES
    install_packages(wanted)


def find_browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def main() -> None:
    """Provide PROGRAM by PACKAGE, or print that it is missing; the caller continues without it."""
    program, package = sys.argv[1:]
    if shutil.which(program) is None:
        install_packages([package])
    if shutil.which(program) is None:
        say(f"{program} is missing, and what needs it is left out (Debian: apt-get install {package})")


if __name__ == "__main__":
    main()
