"""Runs all cases of Autobahn's test-suite in both roles, on the newest interpreter."""

from __future__ import annotations

import os
import sys

from autobahn import NO_PYTHON, provide_wstest
from common import ROOT, SetUpError, clean_environ, say
from environments import choose_interpreter, make_environment


def main() -> None:
    try:
        interpreter = choose_interpreter()
        wstest = provide_wstest()
        if not wstest:
            say(f"autobahn {NO_PYTHON}")
            return
        python = make_environment(interpreter, f"test-{interpreter.minor}", ["test"])
    except SetUpError as error:
        sys.exit(f"error: {error}")
    environ = {**clean_environ(), "WSTEST": wstest, "CONFORMANCE": "all"}
    os.chdir(ROOT)
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-m", "conformance", *sys.argv[1:]]
    os.execvpe(command[0], command, environ)


if __name__ == "__main__":
    main()
