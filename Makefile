# make sample   install into .venv and make videos with the bundled model
# make test     run the test suite
# make check    run the linters, the import contracts, the type checker and the test suite
# make docs     build the documentation as a site, in site/
# make soak     kill, damage and starve training runs for up to an hour
PYTHON ?= python3
# The version that the documented figures were measured with. Any torch >= 2.10 works: make TORCH=torch==2.15.0 ...
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: sample test check docs soak clean

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) '$(TORCH)' -e '.[test]'
	touch $@

sample: .venv/installed
	$(BIN)/latte sample

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/helpers/joined_package.py lint-imports setup.cfg --no-cache
	MYPY_CACHE_DIR=$(CURDIR)/.mypy_cache $(BIN)/python tests/helpers/joined_package.py mypy --config-file setup.cfg
	$(BIN)/python -m pytest -q -n 2

docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python tests/helpers/joined_package.py mkdocs build --strict --config-file mkdocs.yml

.venv/docs-installed: .venv/installed
	$(PIP) -e '.[docs]'
	touch $@

# Takes up to an hour: hundreds of kills, damaged files and full disks. SOAK=0.1 runs a tenth of it.
soak: .venv/installed
	$(BIN)/python -m pytest -q -s tests/soak/*.py

clean:
	rm -rf .venv samples site build *.egg-info
