# Dermnote's named commands. `make help` lists them; each does its own set-up in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARTS  := contracts imaging services/notegen[worker] services/retrieval[torch] clients/train
EDITABLE := $(foreach part,$(PARTS),-e '$(part)')
SOURCES := contracts/src imaging/src services/notegen/src services/retrieval/src clients/train/src stack lab

# `make demo` takes DATA= (a data set's folder), LIMIT= (a balanced part of it), OUT= (where the report goes).
DEMO_ARGS := $(if $(DATA),--data '$(DATA)') $(if $(LIMIT),--limit $(LIMIT)) $(if $(OUT),--out '$(OUT)')

.DEFAULT_GOAL := help
.PHONY: help demo test compose-test coverage up down bench lint format lock openapi

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: up ## The whole way on drawn lesions, or on DATA=folder [LIMIT=n]: notes, training, index, search, report
	$(BIN)/dermnote demo $(DEMO_ARGS)

test: $(STAMP) ## Run all the tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

compose-test: $(STAMP) ## Build the images and try the whole compose stack; needs Docker, its socket, and root to kill
	HF_HUB_OFFLINE=1 DERMNOTE_COMPOSE_TEST=1 $(BIN)/python -m pytest -s tests/deploy/test_compose.py

coverage: $(STAMP) ## Run all the tests and measure what they cover; takes twice as long
	HF_HUB_OFFLINE=1 $(BIN)/coverage erase
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --cov --cov-report=term:skip-covered

up: $(STAMP) ## Start the local stack and wait until it serves (notegen 8001, retrieval 8002)
	@$(BIN)/python -m stack up

down: $(STAMP) ## Stop the local stack; its state stays under .dermnote/
	@$(BIN)/python -m stack down

bench: up ## Run the benchmarks; figures go to lab/results/
	@for file in lab/*.py; do echo "== $$file"; $(BIN)/python -m lab.$$(basename $$file .py) || exit 1; done

lint: $(STAMP) ## Check format, style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## Resolve every dependency anew and write constraints.txt
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet $(EDITABLE) -r requirements-dev.txt
	$(VENV)-lock/bin/pip freeze --exclude-editable > constraints.txt.new && mv constraints.txt.new constraints.txt
	rm -rf $(VENV)-lock

openapi: $(STAMP) ## Write the services' OpenAPI documents to docs/openapi/
	$(BIN)/python docs/openapi/write.py

$(STAMP): constraints.txt requirements-dev.txt $(wildcard contracts/pyproject.toml imaging/pyproject.toml services/*/pyproject.toml clients/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit("Dermnote needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time: several minutes, llama-cpp-python is compiled)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE) -r requirements-dev.txt
	@touch $(STAMP)
