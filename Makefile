# Everything is set up in .venv and written inside the clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCENE := examples/landsat7-nc-2000.tif
# No cache: it would lie outside the clone.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir \
	--constraint constraints.txt

# A process for each core, and each file of tests in one of them. Where such a process dies, another
# in its place would wait for ever for the rest of its file: the test has failed, and that's the end.
PYTEST := $(BIN)/pytest --numprocesses logical --dist loadfile --max-worker-restart 0

.PHONY: help map test slow check picture model clean

help:
	@echo "make map      sets up, then maps the example scene"
	@echo "make test     sets up, then runs the tests"
	@echo "make slow     the tests that take minutes"
	@echo "make check    format, lint, types and layers"
	@echo "make picture  maps the example scene and paints docs/map.png again"
	@echo "make clean    removes what was set up"

map: $(VENV)/run.stamp
	$(BIN)/segpipe run $(SCENE) --overwrite --new-run

test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow"

slow: $(VENV)/dev.stamp
	$(PYTEST) -m slow

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

picture: map $(VENV)/dev.stamp
	$(BIN)/python docs/picture.py $(SCENE) landsat7-nc-2000.classes.tif docs/map.png

clean:
	rm -rf $(VENV)

# The commands below end with a stamp, so that an install that was cut short is taken up again.
$(VENV)/run.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "segpipe needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version); torch is a large download"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(INSTALL) --editable ".[dev,train]"
	@touch $@
