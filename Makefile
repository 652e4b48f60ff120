# Dermnote's commands. `make help` lists them; each sets up .venv first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARTS  := contracts imaging services/http services/notegen[worker] services/retrieval[torch] clients/train
EDITABLE := $(foreach part,$(PARTS),-e '$(part)')
SOURCES := contracts/src imaging/src services/http/src services/notegen/src services/retrieval/src clients/train/src stack lab tools

# Variables of `make demo`: DATA= (folder of a data set), LIMIT= (size of a balanced subset), OUT= (folder of the report).
DEMO_ARGS := $(if $(DATA),--data '$(DATA)') $(if $(LIMIT),--limit $(LIMIT)) $(if $(OUT),--out '$(OUT)')

# Each of TEST_WORKERS processes runs a file at a time, and computes with one thread.
TEST_WORKERS ?= 2
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope \
	--no-loadscope-reorder --durations=30 --durations-min=3
REPORT = --junitxml=.dermnote/junit.xml -o junit_suite_name='$@, $(TEST_WORKERS) workers'

.DEFAULT_GOAL := help
.PHONY: help demo test test-all durations compose-test coverage up down bench lint format lock openapi

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: up ## Run everything on synthetic lesions, or on DATA=folder [LIMIT=n]: notes, training, index, search, report
	$(BIN)/dermnote demo $(DEMO_ARGS)

test: $(STAMP) ## Run the tests; CONTRIBUTING.md lists what only test-all does
	$(PYTEST) $(REPORT) -m 'not slow'

test-all: $(STAMP) ## Run everything, as before a release: more examples, a second model, fresh installations, checkov
	DERMNOTE_TESTS=all $(PYTEST) $(REPORT)

durations: $(STAMP) ## Add how long the last run of the tests took to docs/test-durations.csv
	$(BIN)/python tools/durations.py

compose-test: $(STAMP) ## Build the images and test the compose stack; needs Docker, its socket, and root to kill containers
	HF_HUB_OFFLINE=1 DERMNOTE_COMPOSE_TEST=1 $(BIN)/python -m pytest -s tests/deploy/test_compose.py

coverage: $(STAMP) ## Run the tests of `make test` with branch coverage
	HF_HUB_OFFLINE=1 $(BIN)/coverage erase
	$(PYTEST) -m 'not slow' --cov --cov-report=term:skip-covered

up: $(STAMP) ## Start the local stack and wait until it is ready (notegen 8001, retrieval 8002)
	@$(BIN)/python -m stack up

down: $(STAMP) ## Stop the local stack; its state stays in .dermnote/
	@$(BIN)/python -m stack down

bench: up ## Run the benchmarks; results go to lab/results/
	@for file in lab/*.py; do echo "== $$file"; $(BIN)/python -m lab.$$(basename $$file .py) || exit 1; done

lint: $(STAMP) ## Check format, style, types, import contracts and prose
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python tools/prose.py

format: $(STAMP) ## Format the code and apply automatic fixes
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## Resolve all dependencies from scratch and write constraints.txt
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet $(EDITABLE) -r requirements-dev.txt
	$(VENV)-lock/bin/pip freeze --exclude-editable > constraints.txt.new && mv constraints.txt.new constraints.txt
	rm -rf $(VENV)-lock

openapi: $(STAMP) ## Write the services' OpenAPI documents to docs/openapi/
	$(BIN)/python docs/openapi/write.py

$(STAMP): constraints.txt requirements-dev.txt $(wildcard contracts/pyproject.toml imaging/pyproject.toml services/*/pyproject.toml clients/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit("Dermnote needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first run takes several minutes: llama-cpp-python is compiled)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE) -r requirements-dev.txt
	@touch $(STAMP)
