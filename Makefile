# SPDX-License-Identifier: GPL-2.0-or-later
# make demo and make test are all that a fresh machine with Python 3.11 and gcc needs.

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV   ?= .venv
PY     := $(VENV)/bin/python

# More options for pytest: make test PYTEST_ARGS="-k mutex -x"
PYTEST_ARGS ?=
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)

help:
	@echo "make demo       set up, build a sample, run it on two virtual hosts"
	@echo "make test       lint, types and all tests but the slow ones"
	@echo "make test-slow  the slow tests, and tests/e2e with the pager that works everywhere"
	@echo "make stress     every program 20 times on 2 hosts, 5 times all on one processor"
	@echo "make programs   Debian's programs on 1, 2 and 3 hosts, into docs/programs.md"
	@echo "make bench      the benchmark suite, into docs/benchmarks.md; 15 minutes"
	@echo "make venv       the Python environment, in $(VENV)"
	@echo "make build      the test programs, in testprogs/bin"
	@echo "make clean      remove what was built, $(VENV) included"

venv: $(VENV)/ready

# Where Python is told not to write bytecode, each start of dsmsup would compile it all.
bytecode: venv
	@$(PY) -m compileall -q supervisor rewriter

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python of version 3.11 or later found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

build:
	$(MAKE) --no-print-directory -C testprogs

testprogs/bin/mandelbrot: testprogs/mandelbrot.c testprogs/common.h
	$(MAKE) --no-print-directory -C testprogs bin/mandelbrot

demo: bytecode testprogs/bin/mandelbrot
	mkdir -p build
	$(VENV)/bin/dsmsup exec -n 2 --stats build/demo.json testprogs/bin/mandelbrot 8 100000 1
	@$(PY) testprogs/who_ran_what.py build/demo.json

lint: venv
	$(PY) -m ruff check .

types: venv
	$(PY) -m mypy --strict supervisor rewriter

# What only computes runs two at a time, then the rest, which wants the machine to itself.
# (Status 5: of what PYTEST_ARGS chooses, nothing is there.)
COMPUTING := tests/coherence tests/rewriter
test: lint types build bytecode
	$(PYTEST) -m "not slow" -n 2 $(COMPUTING) || [ $$? = 5 ]
	$(PYTEST) -m "not slow" $(addprefix --ignore=,$(COMPUTING)) || [ $$? = 5 ]

test-slow: bytecode build
	$(PYTEST) -m slow
	$(PYTEST) -m "not slow" tests/e2e --pager sigsegv

STRESS := tests/e2e/test_exec_programs.py -m "not slow"
stress: bytecode build
	$(PYTEST) $(STRESS) --hosts 2 --repeat 20
	$(PYTEST) $(STRESS) --hosts 2 --repeat 5 --pin 0

# In pieces of a few minutes each: make programs PROGRAMS_ARGS="--seconds 120 --json ..."
PROGRAMS_ARGS ?= --json docs/programs.json --page docs/programs.md
programs: bytecode
	$(PY) tests/e2e/others_table.py $(PROGRAMS_ARGS)

$(VENV)/bench-ready: $(VENV)/ready
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

# More options for the suite: make bench BENCH_ARGS="--only micro"
BENCH_ARGS ?= --json docs/benchmarks.json --page docs/benchmarks.md
bench: $(VENV)/bench-ready build bytecode
	$(PY) benches/suite.py $(BENCH_ARGS)

clean:
	$(MAKE) --no-print-directory -C testprogs clean
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help venv bytecode build demo lint types test test-slow stress programs bench clean
