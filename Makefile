# make demo    install into .venv, find which latent is which part of a face, draw faces without a mouth
# make test    install into .venv, then the whole suite, JOBS=2 processes (pages need a Chromium, and are left out without)
# make faults  kills, flips, full disks, several ranks
# make lint    style, arrows between rooms, lengths
# make results the README's figures of drawn faces again, three seeds each
# make bench   every claim of speed as a ratio in one run
# make setup   .venv alone
# make saelens .venv-saelens alone: SAELens, which the suite checks exports against
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LENS := .venv-saelens
LENS_PY := $(LENS)/bin/python
LENS_STAMP := $(LENS)/.installed
CHROMIUM ?= $(shell for name in chromium chromium-browser google-chrome chrome; do command -v $$name && break; done)
WITHOUT := $(if $(CHROMIUM),, and not browser)
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: setup saelens demo test faults lint results bench clean

setup: $(STAMP)

# The stamp is written last: an interrupted installation is made again from the start.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "diffdict needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=python3.12, say."; exit 2; }
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(STAMP)

saelens: $(LENS_STAMP)

# Nothing of SAELens enters .venv: its environment sees the packages there (torch among them) and
# keeps its own above them. Only what its import needs comes along, no plots and no tutorials.
$(LENS_STAMP): $(STAMP)
	@test -x $(LENS_PY) && $(LENS_PY) -m pip --version >/dev/null 2>&1 \
	  || { rm -rf $(LENS); $(PY) -m venv --without-pip $(LENS) \
	  && $(PY) $(PURELIB) > $$($(LENS_PY) $(PURELIB))/venv.pth; }
	$(LENS_PY) -m pip install --quiet --disable-pip-version-check \
	  "transformer-lens>=2.16.1,<4" "simple-parsing>=0.1.8,<0.2" requests pyyaml
	$(LENS_PY) -m pip install --quiet --disable-pip-version-check --no-deps "sae-lens==6.54.12"
	@touch $(LENS_STAMP)

demo: $(STAMP)
	$(PY) extract.py dataset.name=toy_faces_500 dataset.train_pictures=500 block=3
	$(PY) train.py experiment=demo test=false hydra.run.dir=outputs/demo
	$(PY) evaluate.py ckpt_path=outputs/demo/last.ckpt report=dashboard hydra.run.dir=outputs/demo/concepts
	$(PY) extract.py task=steering dictionary=outputs/demo concept=mouth data.number=6 sampler.respacing=ddim20 folder=outputs/demo/steered

test: $(STAMP) $(LENS_STAMP)
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not faults$(WITHOUT)"
	$(if $(WITHOUT),@echo "Left out: the page in a browser. No Chromium was found; CHROMIUM=/path/to/chromium names one.")

faults: $(STAMP)
	$(PY) -m pytest -m faults

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m pytest tests/test_layers.py

results: $(STAMP)
	$(PY) tests/readme_figures.py

bench: $(STAMP) $(LENS_STAMP)
	@for script in tests/benchmarks/*.py; do head -1 $$script; $(PY) $$script || exit 1; done

clean:
	rm -rf $(VENV) $(LENS) outputs multirun
