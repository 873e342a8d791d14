# make sample: install into .venv and make videos with the model that ships. make test: the whole test suite.
PYTHON ?= python3
# The release that the figures in the README were measured with; any torch >= 2.10 does: make TORCH=torch==2.15.0 ...
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: sample test check soak clean

# timm imports torchvision, whose current wheels load only beside a CUDA build of torch. Beside a CPU build an older
# one, which needs no compiled part, takes its place.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) '$(TORCH)' -e '.[test]'
	$(BIN)/python -c 'import timm' 2>/dev/null || { $(PIP) requests && $(PIP) --no-deps torchvision==0.16.2; }
	$(BIN)/python -W ignore -c 'import timm'
	touch $@

sample: .venv/installed
	$(BIN)/latte sample --out samples

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n 2

# Up to an hour: kills, damage and full disks by the hundred. SOAK=0.1 does a tenth of it.
soak: .venv/installed
	$(BIN)/python -m pytest -q -s tests/soak.py

clean:
	rm -rf .venv samples build *.egg-info
