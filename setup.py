"""Compiles the extensions; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


# A build that coverage or sanitizers can follow is a debug build, too: nobody should measure it.
TRACE = switched_on("SOCKRPC_TRACE")
SANITIZE = switched_on("SOCKRPC_SANITIZE")
DEBUG = TRACE or SANITIZE or switched_on("SOCKRPC_DEBUG")
MODE = "trace" if TRACE else "sanitize" if SANITIZE else "debug" if DEBUG else "release"
# What is found ends the process: a report that the program survives is a report that is overlooked.
# Python's own flags bring -fwrapv along, with which no signed overflow is one.
SANITIZERS = [
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-fno-wrapv",
]  # fmt: skip
CORES = os.cpu_count() or 1


class BuildExtensions(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or CORES

    def build_extensions(self) -> None:
        # By compiler, not by platform: clang and MinGW run on Windows as well.
        if self.compiler.compiler_type == "msvc":
            arguments = ["/O2"]
        else:
            compiler = self.compiler.compiler_so[0]
            if shutil.which(compiler) is None:
                sys.exit(f"sockrpc needs a C compiler: {shlex.quote(compiler)} was not found.")
            arguments = ["-O1", "-g"] if DEBUG else ["-O3", "-g0", "-fvisibility=hidden"]
            arguments += SANITIZERS if SANITIZE else []
        for extension in self.extensions:
            extension.extra_compile_args = arguments
            if SANITIZE:
                extension.extra_link_args = SANITIZERS
            elif sys.platform == "linux" and not DEBUG:
                # -g0 alone leaves the symbols of Python's own start files in the wheel.
                extension.extra_link_args = ["-Wl,-s"]
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
            f"sockrpc.{source.stem}",
            [source.as_posix()],
            define_macros=macros,
            # Python's own compiler flags bring -DNDEBUG along.
            undef_macros=["NDEBUG"] if DEBUG else [],
            # Its flags went into what is compiled.
            depends=["setup.py"],
        )
        for source in sorted(Path("src/sockrpc").glob("*.pyx"))
    ]


# Processes that compile side by side may import this file again.
if __name__ == "__main__":
    setup(
        cmdclass={"build_ext": BuildExtensions},
        # What is newer than its source is not compiled again, whatever the flags: so one place per mode.
        options={"build": {"build_base": f"build/{MODE}"}},
        ext_modules=cythonize(
            extensions(),
            nthreads=CORES,
            # coverage finds the C of a .pyx only beside it.
            build_dir=None if TRACE else "build/cython",
            compiler_directives={"language_level": 3, "linetrace": TRACE},
        ),
    )
