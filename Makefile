# make demo    the whole chain on the pocket model, from rendered clips to a promoted pair
# make test    the tests; make lint: ruff and mypy; make clean: remove .venv, caches and runs/demo
# TORCH_PIP_ARGS chooses the torch wheel, for instance the CPU one, 190 MB in place of 2.5 GB with CUDA:
#   make demo TORCH_PIP_ARGS="--index-url URL_OF_THE_CPU_INDEX"

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_PIP_ARGS ?=

BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/musubi-ext demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install $(TORCH_PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
