# Two commands for a new user: `make demo` and `make test`. Both make .venv and install what they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test quick pytest lint docs clean

demo: $(VENV)/.demo
	$(BIN)/asr-lora demo

# Both at once: mypy takes a core for a minute where nothing is cached.
test: $(VENV)/.test
	$(MAKE) --jobs 2 lint pytest

# While you work: the same without the tests that are marked as slow, in less than 90 seconds.
quick: $(VENV)/.test
	$(MAKE) --jobs 2 lint pytest TESTS="-m 'not slow'"

pytest: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in site/: open site/index.html. A broken link or anchor is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$*]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "asr_lora needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
