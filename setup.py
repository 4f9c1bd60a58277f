"""Compiles the extensions; everything else about the package stands in pyproject.toml."""

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


# A build that coverage or sanitizers can follow is a debug build, too: nobody should measure it.
TRACE = switched_on("SOCKRPC_TRACE")
SANITIZE = switched_on("SOCKRPC_SANITIZE")
DEBUG = TRACE or SANITIZE or switched_on("SOCKRPC_DEBUG")
MODE = "trace" if TRACE else "sanitize" if SANITIZE else "debug" if DEBUG else "release"
# The promise that no lock of the interpreter is needed. Only builds that are tested without it make it:
# tests/peer/test_threads.py; any other makes a free-threaded Python take its lock back.
FREE_THREADED = switched_on("SOCKRPC_FREE_THREADED")
MODE += "-free-threaded" if FREE_THREADED else ""
# What is found ends the process: a report that the program survives is a report that is overlooked.
# Python's own flags bring -fwrapv along, with which no signed overflow is one.
SANITIZERS = [
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-fno-wrapv",
]  # fmt: skip
CORES = os.cpu_count() or 1


def require_compiler() -> None:
    """Says in one sentence what is missing; compilers and setuptools say it in a hundred lines."""
    if sys.platform == "win32":
        # What setuptools says of a missing Visual C++ is a sentence already.
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
        # Before anything is copied: the last line is what people read, and the first is what they wait for.
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
        # By compiler, not by platform: clang and MinGW run on Windows as well.
        if self.compiler.compiler_type == "msvc":
            arguments = ["/O2"]
        elif SANITIZE:
            # A report names lines only; to optimize the checks would take half of the compiler's time.
            arguments = ["-Og", "-g1", *SANITIZERS]
        else:
            arguments = ["-O1", "-g"] if DEBUG else ["-O3", "-g0", "-fvisibility=hidden"]
        # Only here: what asks for metadata or makes an sdist needs no C.
        translated = cythonize(
            self.extensions,
            nthreads=CORES,
            # A folder, which builds for several versions of Python share: the C is the same for all.
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
            # Python's own compiler flags bring -DNDEBUG along.
            undef_macros=["NDEBUG"] if DEBUG else [],
            # Its flags went into what is compiled.
            depends=["setup.py"],
        )
        for source in sorted(Path("src/sockrpc").rglob("*.pyx"))
    ]


# Processes that compile side by side may import this file again.
if __name__ == "__main__":
    setup(
        cmdclass={"build": Build, "build_ext": BuildExtensions},
        # What is newer than its source is not compiled again, whatever the flags: so one place per mode.
        options={"build": {"build_base": f"build/{MODE}"}},
        ext_modules=extensions(),
    )
