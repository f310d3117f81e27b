UV_VERSION := 0.13.8
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
PYTEST_OPTIONS ?=
WORKERS ?= 3
ONLY ?=
EVENTS ?= 1000000
OPEN_RUNS ?= 100
export EVENTS OPEN_RUNS
SEED ?=
POINTS ?=
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup lock run test quick check lint types protos simulation bench chaos image clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/.installed ## Install everything from requirements.lock into .venv

$(UV):
	@$(PYTHON) -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: requirements.lock pyproject.toml | $(UV)
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --require-hashes requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock: | $(UV) ## Resolve pyproject.toml into requirements.lock again
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group dev pyproject.toml -o requirements.lock

run: setup ## See a crew do a job, on a platform of its own, and replay it
	@$(BIN)/crewlog demo

test: setup ## Run every test; WORKERS=1 one after the other
	@$(BIN)/pytest -m "not campaign" -n $(WORKERS) --dist worksteal $(PYTEST_OPTIONS)

quick: setup ## Run the tests that take no seconds
	@$(BIN)/pytest -m "not slow" $(PYTEST_OPTIONS) tests/domain tests/tidy tests/contract

check: test lint types ## Everything that CI asks for

lint: setup ## Check format, style, import rules, generated code and protos
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python tools/generate_protos.py --check
	@$(BIN)/python tools/generate_workflow_schema.py --check
	@tools/buf/check

types: setup ## Check types: mypy, and pyright where node is installed
	@$(BIN)/mypy
	@if command -v node >/dev/null; then $(BIN)/pyright; else echo "pyright is left out: node is not installed"; fi

protos: setup ## Generate libs/crewlog/v1 and the schema of workflow files from protos
	@$(BIN)/python tools/generate_protos.py
	@$(BIN)/python tools/generate_workflow_schema.py

simulation: setup ## Run the simulations: the usual seeds, SEEDS=1000 of them, or SEED=7 with its story
	@$(BIN)/pytest tests/simulation $(PYTEST_OPTIONS)

bench: setup ## Measure: all of it, or ONLY="W1 W8"
	@$(BIN)/python -m bench $(ONLY)

chaos: setup ## Kill at every point and at random moments; SEED=1 repeats, POINTS="^git/" chooses
	@$(BIN)/pytest -m campaign -n $(WORKERS) tests $(PYTEST_OPTIONS)
	@CHAOS=all SEED="$(SEED)" POINTS="$(POINTS)" $(BIN)/pytest tests/chaos -o log_cli=true -o log_cli_level=INFO -o verbosity_subtests=0 $(PYTEST_OPTIONS)

growth: setup ## See what a long log costs: EVENTS=1000000 OPEN_RUNS=100
	@$(BIN)/python -m bench.growth

image: setup ## Build the image of the services and start them in containers, where Docker is
	@$(BIN)/python tools/containers/make_secrets.py
	docker compose up --build --wait

clean: ## Remove what was installed and generated for work on the code
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis dist bench/results tools/buf/node_modules tests/e2e/node/node_modules
