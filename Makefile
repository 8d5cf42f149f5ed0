# make align       a whole alignment: configs/reviews.yaml through DVC, skipping what is unchanged
# make align CONFIG=configs/tiny.yaml ARGS="sampling.samples_per_prompt=16"
# make test        everything that two cores do in ten minutes; test-unit: under a minute
# make test-full   the matrices, the servers and the real parts too
# make test-fault  every fault that docs/reliability.md tells of; writes that page
#
# PIP_ARGS is handed to pip (which torch to take: see README.md), PYTHON names an interpreter.

DEFAULT_CONFIG = configs/reviews.yaml
CONFIG ?= $(DEFAULT_CONFIG)
ARGS ?=
PIP_ARGS ?=
PYTHON ?=
PYTEST_ARGS ?=
export PIP_ARGS PYTHON

RUN = sh infra/env.sh run
# Two workers on two cores: a second thread in each would only wait for the other worker's.
PYTEST = OMP_NUM_THREADS=1 $(RUN) python -m pytest -n 2 --dist loadfile
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help align audit-deps test test-unit test-full test-fault lint bench env env-test clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

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

# Known weaknesses of what is installed; asks an advisory service, and says so where none can be reached.
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
