# One line per verb; `make demo` and `make test` set up what they need.
FAISS ?= cpu
DATA ?= synthetic
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTEST = python -m pytest -n 2 --dist loadfile

.PHONY: setup demo test test-fast test-slow check render docs bench airflow replay kfp

setup: .venv/ready  ## one environment, pinned
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),airflow,kfp,dev]'
	touch $@

demo: setup  ## the main job end to end: make demo [DATA=kuairand-pure FROM=DIR]
	perscen data $(DATA) $(if $(FROM),--from $(FROM)) --to data/raw
	dvc repro
	perscen summary

test: setup check  ## lint, types, and every test but the slow ones
	$(PYTEST) -m "not slow"

test-fast: setup  ## under a minute
	$(PYTEST) -m "not slow and not medium" $(addprefix --ignore=tests/,airflow e2e versioning)  # none there is fast

test-slow: setup  ## real slice, replays, faults
	$(PYTEST) --no-loadscope-reorder -m slow  # in the order of folders, which begins with the longest

check: setup  ## lint, format, types, layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports

render: setup kfp  ## files made from code
	perscen render
	perscen params > params.yaml

kfp: setup  ## the Kubeflow pipeline, compiled
	python -m dags.perscen_kubeflow

airflow: setup  ## a local Airflow with the DAGs: make airflow [AIRFLOW_DB=postgres]
	infra/airflow/local.sh

replay: setup  ## seven days through the real scheduler: make replay FROM=DIR
	perscen data kuairand-pure $(if $(FROM),--from $(FROM)) --to build/replay-log
	python -m bench.replay --raw build/replay-log

docs: setup  ## links and code references in the documentation hold
	python -m pytest tests/docs -q

bench: setup  ## ratios, measured in one run
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),bench]'
	python -m bench
