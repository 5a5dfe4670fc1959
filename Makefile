# make demo   train and evaluate on a spoken corpus, then classify a file
# make test   the tests and the examples in the docstrings
# make check  make test, the slow tests, lint, format and types
# make check-transformers  the tests that transformers runs over its own models, over ours; fetches its source distribution
# make docs   the documentation, in docs/_build; warnings are errors
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check check-transformers docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/shift-ser demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests shift_ser -m "not slow" --numprocesses 2 --dist loadfile --cov=shift_ser --cov-report=term --cov-fail-under=95

check: $(VENV)/.installed-dev test
	$(BIN)/python -m pytest tests -m slow --numprocesses 2 --dist loadfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-transformers: $(VENV)/.installed-dev
	$(BIN)/python tests/transformers_common

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

# One environment; each set of packages is installed once, and again when the project's needs change.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_build *.egg-info .coverage
