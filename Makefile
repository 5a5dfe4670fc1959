# make demo   train and evaluate on a spoken corpus, then classify a file
# make test   the tests and the examples in the docstrings
# make check  make test, lint, format and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check clean

demo: $(VENV)/.installed-demo
	$(BIN)/python -m shift_ser.corpora.synthetic corpora/demo
	$(BIN)/python examples/run_ser.py demo
	$(BIN)/python examples/predict.py --model runs/demo/fold1 \
		corpora/demo/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests shift_ser --numprocesses 2 --dist loadfile --cov=shift_ser --cov-report=term --cov-fail-under=95

check: $(VENV)/.installed-dev test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One environment; each set of packages is installed once, and again when the project's needs change.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .coverage
