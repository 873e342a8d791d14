# make sample: install into .venv and make videos with the model that ships; make test: the whole test suite.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sample test check clean

# The CPU build of torch is 0.2 GB, the CUDA build several: take what the machine can use.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(if $(TORCH),"$(TORCH)",)  -e '.[test]'
	touch $@

sample: .venv/installed
	$(BIN)/latte sample --out samples

test: .venv/installed
	$(BIN)/python -m pytest -q

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q

clean:
	rm -rf .venv samples build *.egg-info
