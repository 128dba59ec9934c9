# `make train` and `make test` are all that a newcomer needs; `make help` lists the rest.
VENV ?= .venv
PYTHON ?= python3
GPU_PYTHON ?= python3
GPU_OPTIONS ?=
TRAIN ?=
CUDA_CHECK ?=
HEADERS_CHECK ?=
OLDEST_TRITON := 3.6.0
BIN := $(VENV)/bin
STAMP := $(VENV)/.fastgan-installed

.DEFAULT_GOAL := help
.PHONY: help setup train test lint types format docs bench bench-check bench-docs bench-quality \
	recipes gpu headers-check rehearse cuda-check kernel-report oldest-report kernel-check \
	readme dist clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## make .venv and install fastgan into it, building the C++ extension

$(STAMP): tools/bootstrap.py pyproject.toml setup.py constraints.txt $(wildcard csrc/*.* csrc/*/*/*.* csrc/*/*/*/*.*)
	$(PYTHON) tools/bootstrap.py $(VENV)
	@touch $@

train: setup ## train a DCGAN on the embedded digits; prints where the samples are
	$(BIN)/fastgan train digits $(TRAIN)

test: setup ## run the tests, on up to four cores
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
		--max-worker-restart=0

lint: setup ## ruff: style and mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy
	$(BIN)/mypy

docs: setup ## the documentation as a site, build/site/index.html; broken links are errors
	$(BIN)/mkdocs build --strict

bench: setup ## the performance suite; says how long; complete results go to bench/results/
	$(BIN)/fastgan bench --keep

bench-check: setup ## CPU ratios against bench/history: fails where one fell by 30 %, thrice
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.harness.compare

bench-docs: setup ## the tables of docs/benchmarks.md from bench/results/
	$(BIN)/python -m bench.harness.page

readme: setup ## the README's picture and table, from what is committed
	$(BIN)/python -m tools.readme

bench-quality: setup ## quality over time: fused, reference, tutorial; three minutes each
	$(BIN)/python -m bench.quality

recipes: setup ## train every recipe for minutes and measure it: docs/recipes.md
	$(BIN)/python -m tools.recipe_report

gpu: ## on a machine with an NVIDIA GPU, in GPU_PYTHON's own environment: build, test, measure
	$(GPU_PYTHON) -m tools.gpu $(GPU_OPTIONS)

headers-check: setup ## csrc/ against the headers of the oldest torch that is supported; 80 MB
	$(BIN)/python -m tools.oldest_headers $(HEADERS_CHECK)

cuda-check: ## build, link and load the extension against CUDA builds of torch, without a GPU; 5 GB
	$(PYTHON) -m tools.cuda_check $(CUDA_CHECK)

rehearse: setup ## every recipe's steps on GPUs that are not there: count, check, compile, interpret
	$(BIN)/python -m tools.rehearse

kernel-report: setup ## compile every kernel for every target; registers, spills, load widths
	$(BIN)/python -m tools.kernel_report

oldest-report: setup ## Triton's kernels for sm_90 by the oldest Triton, beside the newest; 500 MB
	$(BIN)/pip install -q --no-deps --target build/triton-$(OLDEST_TRITON) triton==$(OLDEST_TRITON)
	PYTHONPATH=build/triton-$(OLDEST_TRITON):. $(BIN)/python -m tools.kernel_report \
		--parts triton --targets sm_90 --report bench/reports/kernels-oldest.json \
		--beside bench/reports/kernels.json

kernel-check: setup ## as kernel-report, but fail where it differs from the committed one or spills
	$(BIN)/python -m tools.kernel_report --check

dist: setup ## sdist, and the wheel built from it with the torch of .venv, in dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info fastgan/*.so fastgan/_build.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
