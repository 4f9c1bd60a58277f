"""That a sanitized build is one: faults that are planted on purpose have to be reported.

Otherwise a sanitizer that is silently missing would look like code without a fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sockrpc._debug import is_sanitized

pytestmark = pytest.mark.skipif(
    not is_sanitized(), reason="this build of sockrpc is not for sanitizers: make asan"
)

SOURCE = r"""
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>

static PyObject *fault(PyObject *module, PyObject *argument) {
    long kind = PyLong_AsLong(argument);
    char *block = PyMem_Malloc(8);
    volatile char *bytes = block;
    volatile int number = INT_MAX;
    char seen = 0;
    (void) module;
    memset(block, 1, 8);
    if (kind == 1) seen = bytes[8];
    if (kind == 3) number += 1;
    if (kind == 4) seen = (char) *(volatile int *) (bytes + 1);
    PyMem_Free(block);
    if (kind == 2) seen = bytes[0];
    return PyLong_FromLong(seen + (number == 0));
}

static PyMethodDef methods[] = {{"fault", fault, METH_O, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "planted", "", -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_planted(void) { return PyModule_Create(&module); }
"""
# As setup.py compiles the package: after the flags of Python itself, of which -fwrapv would hide an overflow.
FLAGS = [
    *(sysconfig.get_config_var("CFLAGS") or "").split(),
    *("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "-fno-wrapv",
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small extension module that is full of faults."""
    folder = tmp_path_factory.mktemp("planted")
    source = folder / "planted.c"
    source.write_text(SOURCE)
    compiler = os.environ.get("CC", "gcc").split()
    include = f"-I{sysconfig.get_path('include')}"
    command = [*compiler, *FLAGS, "-shared", "-fPIC", include, str(source), "-o", str(folder / "planted.so")]
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(command, check=True, env=environ)
    return folder


@pytest.mark.parametrize(
    ("kind", "report"),
    [
        (1, "heap-buffer-overflow"),
        (2, "heap-use-after-free"),
        (3, "signed integer overflow"),
        (4, "misaligned address"),
    ],
)
def test_a_planted_fault_is_reported(planted: Path, tmp_path: Path, kind: int, report: str) -> None:
    environ = dict(os.environ)
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        # The log of this process is to be told from that of the whole run, which must stay empty.
        kept = [each for each in environ[name].split(":") if not each.startswith("log_path=")]
        environ[name] = ":".join([*kept, f"log_path={tmp_path / 'report'}"])
    done = subprocess.run(
        [sys.executable, "-c", f"import planted; planted.fault({kind})"],
        env=environ,
        cwd=planted,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 99, done
    assert report in "".join(each.read_text() for each in tmp_path.glob("report.*"))


def test_code_without_a_fault_is_not_reported(planted: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import planted; planted.fault(0)"], cwd=planted, timeout=60, check=False
    )
    assert done.returncode == 0


def test_small_objects_are_allocated_one_by_one() -> None:
    # Or a use after free within a pool of CPython's own allocator would go unnoticed.
    assert os.environ["PYTHONMALLOC"] == "malloc"
