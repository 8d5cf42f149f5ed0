# make align        Align with configs/reviews.yaml through DVC; unchanged stages are skipped.
#                   Other settings: make align CONFIG=configs/tiny.yaml ARGS="sampling.samples_per_prompt=16"
# make test         Linters and the tests that take about ten minutes on two cores.
# make test-unit    Unit tests only, in about a minute.
# make test-full    All tests, including servers, the test matrices and the real example packages.
# make test-fault   All faults that docs/reliability.md lists; writes that page.
# make lint         Ruff, mypy and the import contracts.
# make bench        Benchmarks; choose some with ARGS.
# make audit-deps   Known vulnerabilities of the pinned packages.
# make env          Create or update the environment (env-test: with test tools).
# make clean        Delete receipts and caches; runs/ and the environment stay.
#
# PIP_ARGS is passed to pip (which build of torch to install: see README.md); PYTHON sets the interpreter.

DEFAULT_CONFIG = configs/reviews.yaml
CONFIG ?= $(DEFAULT_CONFIG)
ARGS ?=
PIP_ARGS ?=
PYTHON ?=
PYTEST_ARGS ?=
export PIP_ARGS PYTHON

RUN = sh infra/env.sh run
# Two workers on two cores: more threads per worker would only wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(RUN) python -m pytest -n 2 --dist loadfile
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help align audit-deps test test-unit test-full test-fault lint bench env env-test clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

align: env
ifeq ($(CONFIG)|$(ARGS),$(DEFAULT_CONFIG)|)
	@$(RUN) raft repro
else
	@$(RUN) raft align '$(CONFIG)' $(ARGS)
endif

test: lint
	@$(PYTEST) -m "not full and not soak and not real_parts and not gpu" $(PYTEST_ARGS)

test-unit: env-test
	@$(PYTEST) tests/unit -m "not full and not slow" $(PYTEST_ARGS)

test-full: lint
	@$(PYTEST) -m "not gpu and not soak" $(PYTEST_ARGS)

test-fault: env-test
	@$(PYTEST) tests/fault tests/integration/servers/test_schedule.py --reliability-page docs/reliability.md $(PYTEST_ARGS)

lint: env-test
	@$(RUN) ruff check .
	@$(RUN) ruff format --check --quiet .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-cache

# Known vulnerabilities of the pinned packages; says so if no advisory service can be reached.
audit-deps: env-test
	@sh infra/audit-deps.sh

bench: env-test
	@$(RUN) python -P raft_core/launch/children.py . benchmarks $(ARGS)

env:
	@sh infra/env.sh create

env-test:
	@sh infra/env.sh create test

# Caches and receipts; runs/ and the environment stay.
clean:
	rm -rf data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
