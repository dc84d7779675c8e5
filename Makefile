# Everything runs through .venv, which `make setup` makes; no activated environment is needed.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= outputs/demo
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv with all that is needed (CPU or CUDA, V2FLOW_BACKEND=cpu|cuda overrides)
	@$(PYTHON) scripts/setup_env.py

demo: setup  ## 16 pictures from examples/prompts.txt into outputs/demo
	@$(BIN)/v2flow generate --model v2flow-emoji --prompts examples/prompts.txt --out $(OUT)
	@echo
	@echo "The pictures: $(abspath $(OUT))/index.html"

test: setup  ## the tests, on the CPU (PYTEST_ARGS="-k name" picks some, TEST_PROCESSES=0 is one process)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) || { status=$$?; [ $$status -eq 5 ] && echo "no tests were collected" || exit $$status; }

lint: setup  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup  ## let ruff rewrite the files
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove build and test leftovers (not .venv, not outputs)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find v2flow_engine plugins tests scripts examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
