## Every target sets up the virtual environment that it needs, below .venv/.
##
##   make demo    build, install and run the demo server     (ARGS="--port 8000")
##   make test    the tests on every CPython >= 3.11 found   (PYTHONS="3.11 3.13"  PYTEST_ARGS="-k reset"  JOBS=1)
##   make dev     the environment for one test at a time, built in the source tree; again after a .pyx changed
##   make check   static checks: lint, format, types on all systems, stubs, workflows
##   make lint    the part of it for pyproject.toml and .github
##   make docs    the documentation, built strictly, into build/docs/
##   make bench   benchmarks on the newest interpreter       (ARGS="-k frames")
##   make conformance   every case of Autobahn's test-suite, both roles (needs a Python 2.7, or WSTEST)
##   make bench-targets   every promise about speed, measured  (ARGS="--only small")
##   make bench-workers   two workers against one            (ARGS="--workers 1 2 4")
##   make bench-peers     the comparison with other servers    (ARGS="--rounds 3")
##   make guard   is it slower than a revision?              (BASE=main  ARGS="--only reset"  ARGS=--no-counts)
##   make guard-selftest   is a slowdown found, and noise not blamed?
##   make soak    ten minutes of load on the newest interpreter
##   make fuzz    coverage-guided fuzzing, a minute a target  (ARGS="--seconds 600 websocket_server")
##   make asan    the tests under AddressSanitizer and UndefinedBehaviorSanitizer (ARGS="-k frames")
##   make asan-quick   the part of them that runs with every change
##   make cover   line coverage; fails if a line of a .pyx is not executed
##   make wheel   source distribution and wheel into dist/    (PYTHONS=3.11: for that Python)
##   make wheels  both proved: tags, contents, installing, the tests, a build for aarch64  (ARGS="sdist wheel")
##   make clean   remove everything that the other targets made
##
## PYTHONS also chooses the interpreter of the other targets; the newest released one is the default.
## SOCKRPC_DEBUG=1 builds with assertions and debug symbols: SOCKRPC_DEBUG=1 make test

# This file is thin on purpose: scripts/ makes the environments and runs the tests, typed and linted.
.DEFAULT_GOAL := help
.PHONY: help demo test dev check lint wheels docs bench conformance soak fuzz cover wheel clean asan asan-quick bench-targets bench-workers bench-peers guard guard-selftest
export PYTHONS PYTEST_ARGS JOBS

IN = scripts/python scripts/environments.py
IN_CHECK = @$(IN) --group lint check --
IN_LINT = @$(IN) --group workflows --no-package --hashed scripts/actionlint.txt workflows --

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

demo:
	@$(IN) demo -- sockrpc demo $(ARGS)

test:
	@scripts/python scripts/test_all.py

dev:
	@$(IN) --group dev --editable 'dev-{minor}' -- \
	    sh -c 'echo "built; run tests with $${VIRTUAL_ENV#$$PWD/}/bin/python -m pytest tests/test_frames.py"'

lint:
	$(IN_LINT) validate-pyproject pyproject.toml
	$(IN_LINT) yamllint --strict .github .yamllint.yaml
	$(IN_LINT) actionlint -shellcheck= -pyflakes= $(wildcard .github/workflows/*.yml)
	$(IN_LINT) zizmor --offline --no-progress --quiet --persona pedantic .github

check: lint
	$(IN_CHECK) ruff check .
	$(IN_CHECK) ruff format --check .
	$(IN_CHECK) mypy
	$(IN_CHECK) mypy --platform win32 --cache-dir .mypy_cache/win32 src/sockrpc
	$(IN_CHECK) mypy --platform darwin --cache-dir .mypy_cache/darwin src/sockrpc
	$(IN_CHECK) python -m mypy.stubtest sockrpc --concise --ignore-disjoint-bases --allowlist scripts/stubtest-allowed.txt --ignore-unused-allowlist
ifneq ($(wildcard tests/typing),)
	$(IN_CHECK) mypy tests/typing
endif
	@$(MAKE) --no-print-directory docs

# -E reads every page anew; otherwise the warnings of an earlier build would not appear again.
docs:
	@$(IN) --group docs 'docs-{minor}' -- python -P -m sphinx -W --keep-going -n -q -E -b html \
	    -d build/doctrees docs build/docs
	@echo "the documentation is in build/docs/index.html"

bench:
	@mkdir -p build
	@$(IN) --group test 'test-{minor}' -- python -m pytest bench --benchmark-disable-gc \
	    --benchmark-columns=min,median,iqr,rounds --benchmark-json=build/bench.json $(ARGS)
	@$(IN) --group test 'test-{minor}' -- python -m bench.results build/bench.json

IN_BENCH = @$(IN) --group test --group bench 'bench-{minor}' --

bench-targets:
	$(IN_BENCH) python -m bench.targets $(ARGS)

bench-workers:
	$(IN_BENCH) python -m bench.workers $(ARGS)

bench-peers:
	@scripts/python scripts/packages.py h2load nghttp2-client
	$(IN_BENCH) python -m bench.compare $(ARGS)

conformance:
	@scripts/python scripts/conformance.py $(ARGS)

guard:
	@scripts/python scripts/guard.py $(or $(BASE),$(error BASE is the revision to compare with, as in make guard BASE=main)) $(ARGS)

guard-selftest:
	@scripts/python scripts/guard.py --selftest $(ARGS)

soak:
	@$(IN) --group test 'test-{minor}' -- python -m pytest -m soak $(ARGS)

fuzz:
	@scripts/python scripts/fuzz.py $(ARGS)

asan:
	@scripts/python scripts/sanitize.py $(ARGS)

asan-quick:
	@scripts/python scripts/sanitize.py --quick $(ARGS)

cover:
	@scripts/python scripts/cover.py $(ARGS)

wheels:
	@scripts/python scripts/wheels.py $(ARGS)

wheel:
	@$(IN) --group wheels --no-package wheel -- python -m build

clean:
	rm -rf .venv build dist .benchmarks .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	rm -f $(wildcard src/sockrpc/*.so src/sockrpc/*/*.so) \
	    $(foreach kind,c html,$(patsubst %.pyx,%.$(kind),$(wildcard src/sockrpc/*.pyx src/sockrpc/*/*.pyx)))
	find src tests bench examples scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
