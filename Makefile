# make demo    install into .venv, then show what diffdict does
# make test    install into .venv, then the whole suite
# make faults  kills, flips, full disks, several ranks
# make lint    style, arrows between rooms, lengths
# make bench   every claim of speed as a ratio in one run
# make setup   .venv alone
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup demo test faults lint bench clean

setup: $(STAMP)

# The stamp is written last: an interrupted installation is made again from the start.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "diffdict needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=python3.12, say."; exit 2; }
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(PY) extract.py report=grid
	$(PY) extract.py task=samples data.number=16 sampler.respacing=ddim25 paths.samples=outputs/demo

test: $(STAMP)
	$(PY) -m pytest -m "not faults"

faults: $(STAMP)
	$(PY) -m pytest -m faults

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m pytest tests/test_layers.py

bench: $(STAMP)
	@for script in tests/benchmarks/*.py; do head -1 $$script; $(PY) $$script || exit 1; done

clean:
	rm -rf $(VENV) outputs multirun
