# bioplaus: two commands matter, `make reproduce-figures` and `make test`; `make help` lists the rest.
#
# Without PYTHON= everything happens in .venv, made from requirements.lock on first use. With PYTHON=python (inside an
# activated conda environment, say) that interpreter is used as it is.

PRESET ?= quick
PAPER ?=
ONLY ?=
WORKERS ?= 0
SCHEDULER ?= local
DEVICE ?=
AGAIN ?=
GOLDEN ?= tests/golden
FAULTS ?=
BOOTSTRAP ?= python3
JAX ?= .venv-jax

# one word for the shell, whatever is in it
quote = '$(subst ','\'',$(1))'

ifdef PYTHON
RUN := $(call quote,$(PYTHON))
READY := bioplaus-in-python
else
RUN := .venv/bin/python
READY := .venv/installed
endif

ONE_THREAD := OMP_NUM_THREADS=1  # two processes of two threads each would wait for each other
OF_PAPER := --preset $(call quote,$(PRESET)) $(if $(PAPER),--paper $(call quote,$(PAPER)))
ENTRIES := $(if $(ONLY),--only $(call quote,$(ONLY)))
SELECT := $(OF_PAPER) $(if $(RESULTS),--results $(call quote,$(RESULTS)))
PROCESSES := --workers $(call quote,$(WORKERS))
SWEEP := $(ENTRIES) $(PROCESSES) --scheduler $(call quote,$(SCHEDULER)) $(if $(DEVICE),--device $(call quote,$(DEVICE))) $(if $(AGAIN),--again)

.DEFAULT_GOAL := help
.PHONY: help env data reproduce-figures report test faults nbval benchmark compare-jax conform status lab doctor clean clean-results bioplaus-in-python

help:  ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo "Variables: PRESET=$(PRESET) (smoke quick desk paper)  PAPER=$(PAPER)  ONLY=$(ONLY)  WORKERS=$(WORKERS) (0: one per core)  SCHEDULER=$(SCHEDULER)"
	@echo "           DEVICE=$(DEVICE) (cpu cuda auto; none: cpu)"
	@echo "           RESULTS=$(RESULTS) (folder of results; none: Results)"
	@echo "           AGAIN=1 also runs again what was made with other code of its rule"
	@echo "           PYTHON=<interpreter> uses that environment instead of making .venv"

env: $(READY)  ## make .venv with the pinned packages and bioplaus itself

.venv/installed: requirements.lock pyproject.toml
	@$(call quote,$(BOOTSTRAP)) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bioplaus needs Python 3.11 or newer, but %s is %s" % (sys.executable, sys.version.split()[0]))'
	@echo "Making .venv and installing the pinned packages: 2 to 4 minutes, once."
	@test -x .venv/bin/python || $(call quote,$(BOOTSTRAP)) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[lab,test,fast]'
	@touch $@

bioplaus-in-python:
	@$(RUN) -c 'import bioplaus' 2>/dev/null || $(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[lab,test,fast]'

data: $(READY)  ## download the data sets that PRESET (and PAPER) needs
	@$(RUN) -m bioplaus data get $(OF_PAPER)

reproduce-figures: $(READY)  ## run what is missing, draw every figure and table, print the path of the report
	@$(RUN) -m bioplaus reproduce $(SELECT) $(SWEEP)

report: $(READY)  ## draw figures, tables and the report from the results there are
	@$(RUN) -m bioplaus report $(SELECT) $(PROCESSES)

test: $(READY)  ## run all tests: pytest, then the notebooks
	@$(ONE_THREAD) $(RUN) -m pytest -n 2 --dist loadgroup
	@$(MAKE) --no-print-directory nbval

faults: $(READY)  ## kill, fill, cut, flip and forge: every fault at its full count, about an hour (FAULTS="--only pickle")
	@$(ONE_THREAD) $(RUN) tests/faults $(FAULTS)

nbval: $(READY)  ## execute every notebook at its small defaults
	@$(ONE_THREAD) $(RUN) -m pytest -p bioplaus.experiments.nbval_plugin -n 2 --dist loadscope --nbval-lax --nbval-current-env Simulations notebooks

benchmark: $(READY)  ## time one training step of each rule against this machine's matrix product
	@$(RUN) -m bioplaus benchmark

compare-jax: $(READY) $(JAX)/installed  ## time the rules against JAX, which gets an environment of its own, .venv-jax
	@$(RUN) benchmarks/jax/compare.py --torch $(RUN) --jax $(call quote,$(JAX)/bin/python)

$(JAX)/installed:
	@$(call quote,$(BOOTSTRAP)) -m venv $(call quote,$(JAX))
	@$(call quote,$(JAX)/bin/python) -m pip install --quiet --disable-pip-version-check jax==0.10.2
	@touch $@

conform: $(READY)  ## replay golden trajectories of the published code (GOLDEN=folder)
	@$(RUN) -m bioplaus conform $(call quote,$(GOLDEN))

status: $(READY)  ## list the runs of PRESET: done, running, failed, missing
	@$(RUN) -m bioplaus status $(SELECT) $(ENTRIES)

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(RUN) -m jupyter lab notebooks

doctor: $(READY)  ## check the installation and say what to do where it is not fine
	@$(RUN) -m bioplaus doctor

clean:  ## remove .venv and caches; results stay
	@rm -rf .venv .venv-jax build bioplaus.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-results:  ## list the results that git does not keep; with YES=1 remove them
ifeq ($(YES),1)
	@git clean -fdX Results
else
	@git clean -ndX Results
	@echo "Nothing was removed; make clean-results YES=1 removes these."
endif
