# make demo    the whole chain on the pocket model, from rendered clips to a promoted pair
# make test-host  the tests inside the real musubi-tuner: MUSUBI_TUNER_HOMES="checkout …", or what `host install` fetched
# make reproduce  the tables and plots of docs/RESULTS.md again, from nothing; stopped, it goes on where it was
# make test    the tests; make lint: ruff and mypy; make clean: remove .venv, caches and runs/demo
# TORCH_PIP_ARGS chooses the torch wheel, for instance the CPU one, 190 MB in place of 2.5 GB with CUDA:
#   make demo TORCH_PIP_ARGS="--index-url URL_OF_THE_CPU_INDEX"

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_PIP_ARGS ?=
# Processes that share the tests, a file at a time; each computes on one thread.
JOBS ?= 2

BIN := .venv/bin
READY := .venv/.installed

# Checkouts of musubi-tuner, each tested in turn: the lowest and the newest supported one, say.
MUSUBI_TUNER_HOMES ?= $(MUSUBI_TUNER_HOME)
HOST_READY := .venv/.host-installed

.PHONY: demo reproduce test test-host lint clean

demo: $(READY)
	$(BIN)/musubi-ext demo --out runs/demo

reproduce: $(READY)
	$(BIN)/python benchmarks/reproduce.py --out runs/reproduce --figures docs/figures --markdown docs/RESULTS.md

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Without checkouts these tests skip, and say so.
test-host: $(HOST_READY)
	@homes="$(MUSUBI_TUNER_HOMES)"; \
	[ -n "$$homes" ] || homes="$$($(BIN)/musubi-ext host show --path 2>/dev/null)"; \
	for home in $${homes:-""}; do \
	  echo "== tests/host with MUSUBI_TUNER_HOME=$$home"; \
	  MUSUBI_TUNER_HOME="$$home" $(BIN)/python -m pytest tests/host || exit 1; \
	done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo runs/reproduce

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install $(TORCH_PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,serve]"
	touch $@

# PyPI's torchvision loads beside PyPI's CUDA torch. Beside a CPU torch its operators do not load, and it would break
# diffusers: it goes to a folder that is on the path only once musubi-tuner is imported (hosts/musubi/importing.py).
$(HOST_READY): $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,serve,host]"
	$(BIN)/python -m pip install --no-deps --upgrade \
	  $$($(BIN)/python -c "import sys, torch; print('' if torch.version.cuda else f'--target {sys.prefix}/host-packages')") \
	  $$($(BIN)/python -c "import torch; print(f'torchvision==0.{int(torch.__version__.split(chr(46))[1]) + 15}.*')")
	touch $@
