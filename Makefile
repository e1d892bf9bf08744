# make setup | bench | test | test-all | lint | lock. Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3
OUT ?= runs
VENV := .venv
RUN := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup bench test test-all lint lock

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) (PATH); install Python 3.11 or newer, or pass PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11 (PYTHON); pass PYTHON=python3.11" >&2; exit 2; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install --quiet "uv>=0.5"
	$(RUN) -m uv pip sync --quiet --compile-bytecode --python $(RUN) requirements.lock
	@touch $@

bench: setup
	$(RUN) run_bench.py bench smoke --out $(OUT)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(RUN) -m pytest -m "not ray and not long" -x -n auto --dist loadfile
	$(RUN) -m pytest -m "ray and not long" -x

test-all: lint
	$(RUN) -m pytest --run-long -m "not ray" -n auto --dist loadfile
	$(RUN) -m pytest --run-long -m "ray"

lock:
	$(RUN) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --group dev pyproject.toml -o requirements.lock
