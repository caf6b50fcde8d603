PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RUN ?= runs/demo

.PHONY: help setup demo test check bench gpu notebooks build samples clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.tests: $(VENV)/.ready tests/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

setup: $(VENV)/.ready  ## make .venv and install requirements.txt; later targets start at once

demo: $(VENV)/.ready  ## run the quickstart notebook on the CPU and print what it reached
	@mkdir -p $(RUN)
	@echo "most of the time goes into one cell, training: its steps are in $(RUN)/train_log.jsonl"
	$(PY) -m papermill --log-level WARNING notebooks/quickstart.ipynb $(RUN)/quickstart.ipynb \
		-p output_dir $(RUN) $(DEMO)
	@$(PY) -m ocrkit compare $(RUN)/eval/base $(RUN)/eval/tuned --metrics cer exact_match
	@echo "notebook: $(RUN)/quickstart.ipynb"
	@echo "report:   $(RUN)/report/index.html"

test: $(VENV)/.tests  ## ruff, the tests and the notebook gates, with reduced counts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m pytest -m "not slow" -n logical --dist worksteal $(PYTEST)

check: $(VENV)/.tests  ## the full counts behind the README's figures, into notebooks/benchmarks
	$(PY) -m tests.tools.check $(PARTS)

bench: $(VENV)/.tests  ## speed, size and long trainings beside what people use today, into notebooks/benchmarks
	$(PY) -m tests.tools.bench $(PARTS)

gpu: $(VENV)/.tests  ## what a GPU does with the kit, ten minutes, into notebooks/benchmarks
	$(PY) -m tests.tools.gpu $(GPU)

notebooks: $(VENV)/.ready  ## run all notebooks headless; copies, HTML and a table in runs/notebooks
	$(PY) notebooks/run.py $(NOTEBOOKS)

build: $(VENV)/.tests  ## build the notebooks from notebooks/src
	$(PY) notebooks/build.py

samples: $(VENV)/.ready  ## draw the shipped samples anew (fonts: see python -m ocrkit doctor)
	rm -rf ocrkit/assets/samples
	$(PY) -m tests.tools.samples ocrkit/assets/samples

clean:  ## remove what runs left behind
	rm -rf runs .pytest_cache .ruff_cache
