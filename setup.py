"""Compiles the extensions; pyproject.toml has everything else about the package."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


# A build for coverage or sanitizers is a debug build too, whose speed must not be measured.
TRACE = switched_on("SOCKRPC_TRACE")
SANITIZE = switched_on("SOCKRPC_SANITIZE")
DEBUG = TRACE or SANITIZE or switched_on("SOCKRPC_DEBUG")
MODE = "trace" if TRACE else "sanitize" if SANITIZE else "debug" if DEBUG else "release"
# Declares that the modules do not need the interpreter's lock. Only builds that are tested without it do so
# (tests/peer/test_threads.py); any other makes a free-threaded Python enable its lock.
FREE_THREADED = switched_on("SOCKRPC_FREE_THREADED")
# Optimises less, which halves the compiler's time, for tests on further interpreters (scripts/test_all.py).
QUICK = switched_on("SOCKRPC_QUICK")
MODE += ("-free-threaded" if FREE_THREADED else "") + ("-quick" if QUICK else "")
# Any finding ends the process, because a report that the program survives is easily overlooked. Python's own
# flags contain -fwrapv, with which no signed overflow is one.
SANITIZERS = [
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-fno-wrapv",
]  # fmt: skip
CORES = os.cpu_count() or 1


def require_compiler() -> None:
    """Report missing tools in one sentence; compilers and setuptools take a hundred lines."""
    if sys.platform == "win32":
        # For a missing Visual C++, setuptools prints one sentence already.
        return
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise PlatformError(
            "there is no wheel of sockrpc for this Python and system, and compiling it needs a C compiler: "
            f"{shlex.quote(compiler)} was not found (Debian: apt-get install gcc libc6-dev)"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise PlatformError(
            "there is no wheel of sockrpc for this Python and system, and compiling it needs the headers of "
            f"Python: {header} was not found "
            f"(Debian: apt-get install python{sysconfig.get_python_version()}-dev)"
        )


class Build(build):
    def run(self) -> None:
        # Check before anything is copied: people read the last line, and wait for the first.
        require_compiler()
        super().run()


class BuildExtensions(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or CORES

    def run(self) -> None:
        require_compiler()
        super().run()

    def build_extensions(self) -> None:
        # Decide by compiler instead of platform: clang and MinGW run on Windows as well.
        if self.compiler.compiler_type == "msvc":
            arguments = ["/O2"]
        elif SANITIZE:
            # Reports need only line numbers, and optimising the checks would take half of the compiler's
            # time.
            arguments = ["-Og", "-g1", *SANITIZERS]
        else:
            arguments = ["-O1", "-g"] if DEBUG else ["-O1" if QUICK else "-O3", "-g0", "-fvisibility=hidden"]
        # Import Cython only here: commands for metadata or an sdist need no C.
        translated = cythonize(
            self.extensions,
            nthreads=CORES,
            # Builds for several versions of Python share this folder, because the C is the same for all.
            cache=os.environ.get("SOCKRPC_CYTHON_CACHE") or False,
            # coverage finds the C of a .pyx only beside it.
            build_dir=None if TRACE else "build/cython-free-threaded" if FREE_THREADED else "build/cython",
            compiler_directives={
                "language_level": 3, "linetrace": TRACE, "freethreading_compatible": FREE_THREADED,
            },
        )  # fmt: skip
        for extension, with_c in zip(self.extensions, translated, strict=True):
            extension.sources = with_c.sources
            extension.extra_compile_args = arguments
            if SANITIZE:
                extension.extra_link_args = SANITIZERS
            elif sys.platform == "linux" and not DEBUG:
                # -g0 alone leaves the symbols of Python's own start files in the wheel.
                extension.extra_link_args = ["-Wl,-s"]
            elif sys.platform == "darwin" and not DEBUG:
                extension.extra_link_args = ["-Wl,-S", "-Wl,-x"]
        super().build_extensions()


def extensions() -> list[Extension]:
    macros: list[tuple[str, str | None]] = []
    if DEBUG:
        macros += [("SOCKRPC_DEBUG", "1")]
    else:
        macros += [("NDEBUG", None), ("CYTHON_WITHOUT_ASSERTIONS", None)]
    if SANITIZE:
        macros += [("SOCKRPC_SANITIZE", "1")]
    if TRACE:
        # coverage's C tracer, which understands .pyx, is the older of the two mechanisms.
        macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
    return [
        Extension(
            ".".join(source.relative_to("src").with_suffix("").parts),
            [source.as_posix()],
            define_macros=macros,
            # Python's own compiler flags contain -DNDEBUG.
            undef_macros=["NDEBUG"] if DEBUG else [],
            # The flags in setup.py affect the compiled files.
            depends=["setup.py"],
        )
        for source in sorted(Path("src/sockrpc").rglob("*.pyx"))
    ]


# Parallel compiler processes may import this file again.
if __name__ == "__main__":
    setup(
        cmdclass={"build": Build, "build_ext": BuildExtensions},
        # Files newer than their source are not compiled again, whatever the flags, so each mode has its own
        # place.
        options={"build": {"build_base": f"build/{MODE}"}},
        ext_modules=extensions(),
    )
