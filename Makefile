# `make` alone lists what there is. Every target sets up what it needs by itself;
# python3, make and a package index are enough to begin with.

UV      := scripts/uv
BIN     := .venv/bin
READY   := .venv/.ready
# Most wait more than they compute: several files at once.
BESIDE  := tests/unit tests/integration
# These count descriptors, fill disks, take the machine's last process, or sit at terminals: one after
# the other.
APART   := tests/unit/drivers tests/integration/test_cli_sessions.py
ALONE   := $(APART) tests/conformance tests/escape tests/chaos tests/containers tests/test_code_folder.py
# An exception on its way to one thread makes Python 3.11 spin in all others that are traced.
UNTRACED := tests/unit/functions tests/integration/test_executors.py
ATONCE  := -n 2 --dist loadfile
COVER   := --cov --cov-report=term --cov-report=html --cov-report=xml

.DEFAULT_GOAL := help
.PHONY: help setup dev run build build-cpu test test-handler test-unit test-integration test-containers test-fast test-coverage \
	escape bench bench-smoke base-images build-runners build-runner-python build-runner-node \
	build-runner-go build-generator-orval build-instance \
	build-manager build-instance-node build-api build-worker docs check quality-check lint lint-fix format \
	format-check types imports clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml uv.lock
	$(UV) sync --all-groups --compile-bytecode $(if $(CI),--locked)
	$(BIN)/python -m compileall -q src
	@touch $@

setup: $(READY) ## .venv with everything in it
dev: setup ## the same, under the name some expect

run: setup ## real code on real data behind the walls, then three hostile programs
	$(BIN)/python examples/tour.py

test: setup ## every suite, with coverage (coverage/html, coverage/coverage.xml)
	$(BIN)/python -m pytest $(UNTRACED)
	$(BIN)/python -m pytest $(BESIDE) $(ATONCE) $(COVER) \
		$(UNTRACED:%=--ignore=%) $(APART:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)

test-coverage: test ## the same

test-unit: setup ## one module at a time
	$(BIN)/python -m pytest tests/unit

test-fast: setup ## unit tests, quiet, stop at the first failure
	$(BIN)/python -m pytest tests/unit -q -x

test-integration: setup ## the rooms together
	$(BIN)/python -m pytest tests/integration

test-handler: setup ## every event of tests/handler, and what has to come of it
	$(BIN)/python -m tests.handler

test-containers: setup ## with a container engine: the runners, the docker driver
	$(BIN)/python -m pytest tests/containers

escape: setup ## attacks on the walls
	$(BIN)/python -m pytest tests/escape

bench: setup ## the numbers, beside what one would use instead
	$(BIN)/saggar bench

bench-smoke: setup ## the same code paths, a few runs each
	$(BIN)/saggar bench --smoke

base-images: ## bases of Debian packages, for where no image registry can be reached
	scripts/base-images

build-runners: build-runner-python build-runner-node build-runner-go ## saggar/runner-*

build-runner-python: ## saggar/runner-python
	scripts/build-image python
build-runner-node: ## saggar/runner-node
	scripts/build-image node
build-runner-go: ## saggar/runner-go, and saggar/runner-go:build to make others of
	scripts/build-image go
build-instance: ## python: the executor instance, under the name of its type
	scripts/build-image instance
build-manager: ## saggar/manager: what stands in front of instances
	scripts/build-image manager
build-api: ## saggar/api: jobs over HTTP
	scripts/build-image api
build-worker: ## saggar/worker: who runs them, and Flower; PACKAGES="torch ..." beside
	scripts/build-image worker
build: ## saggar/runpod: a worker of RunPod's protocol, with GPU libraries (linux/amd64)
	scripts/build-image runpod
build-cpu: ## saggar/runpod-cpu: the same without
	scripts/build-image runpod-cpu
build-instance-node: ## node: the four endpoints in plain Node, under the name of its type
	scripts/build-image instance-node
build-generator-orval: ## saggar/generator-orval: OpenAPI in, a TypeScript client out
	scripts/build-image orval

docs: setup ## the pages as HTML in build/docs; fails on a broken link
	$(BIN)/python scripts/docs.py build/docs

check: lint format-check types imports ## everything but the tests
quality-check: check ## the same

lint: setup ## ruff
	$(BIN)/ruff check

lint-fix: setup ## ruff, repairing what it can
	$(BIN)/ruff check --fix

format: setup ## lay the code out
	$(BIN)/ruff format

format-check: setup ## is the code laid out
	$(BIN)/ruff format --check

types: setup ## mypy
	$(BIN)/mypy

imports: setup ## which room may import which
	$(BIN)/lint-imports --no-logo

clean: ## what can be made again
	rm -rf .cache .venv build coverage dist
