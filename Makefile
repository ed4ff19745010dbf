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
SIDE_BY_SIDE ?=
AGAIN ?=
GOLDEN ?= tests/golden
FAULTS ?=
BOOTSTRAP ?= python3
JAX ?= .venv-jax

COMMA := ,
# one word for the shell, whatever is in it
quote = '$(subst ','\'',$(1))'

# uv, where there is one, in place of pip, which is slower (UV= keeps to pip). It takes torch for the GPU that is here, or
# for the CPU; where it cannot install, as it reads nothing of how pip is configured, pip does.
UV ?= $(shell command -v uv)
PACKAGES = --quiet --constraint requirements.lock --editable
define install
$(if $(UV),$(call quote,$(UV)) pip install --python $(RUN) --torch-backend auto $(PACKAGES) '.[$(1)$(COMMA)fast]' || )$(RUN) -m pip install --disable-pip-version-check $(PACKAGES) '.[$(1)$(COMMA)fast]'
endef

ifdef PYTHON
RUN := $(call quote,$(PYTHON))
READY := bioplaus-in-python
WITH_TESTS := tests-in-python
WITH_LAB := lab-in-python
else
RUN := .venv/bin/python
READY := .venv/installed
WITH_TESTS := .venv/installed-test
WITH_LAB := .venv/installed-jupyter
endif

ONE_THREAD := OMP_NUM_THREADS=1  # two processes of two threads each would wait for each other
OF_PAPER := --preset $(call quote,$(PRESET)) $(if $(PAPER),--paper $(call quote,$(PAPER)))
ENTRIES := $(if $(ONLY),--only $(call quote,$(ONLY)))
SELECT := $(OF_PAPER) $(if $(RESULTS),--results $(call quote,$(RESULTS)))
PROCESSES := --workers $(call quote,$(WORKERS))
ON_DEVICE := $(if $(DEVICE),--device $(call quote,$(DEVICE))) $(if $(SIDE_BY_SIDE),--side-by-side $(call quote,$(SIDE_BY_SIDE)))
SWEEP := $(ENTRIES) $(PROCESSES) --scheduler $(call quote,$(SCHEDULER)) $(ON_DEVICE) $(if $(AGAIN),--again)

.DEFAULT_GOAL := help
.PHONY: help env data reproduce-figures report test faults nbval benchmark compare-jax gpu-check conform status lab doctor docs coverage clean clean-results bioplaus-in-python tests-in-python lab-in-python

help:  ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo "Variables: PRESET=$(PRESET) (smoke quick desk paper)  PAPER=$(PAPER)  ONLY=$(ONLY)  WORKERS=$(WORKERS) (0: one per core, or per GPU)  SCHEDULER=$(SCHEDULER)"
	@echo "           DEVICE=$(DEVICE) (cpu cuda auto; none: cpu)"
	@echo "           SIDE_BY_SIDE=$(SIDE_BY_SIDE) (seeds of an entry at the same time in one worker; none: 16 on a GPU, else 1)"
	@echo "           RESULTS=$(RESULTS) (folder of results; none: Results)"
	@echo "           AGAIN=1 also runs again what was made with other code of its rule"
	@echo "           PYTHON=<interpreter> uses that environment instead of making .venv"

env: $(READY)  ## make .venv with the pinned packages and bioplaus itself

.venv/installed: requirements.lock pyproject.toml
	@$(call quote,$(BOOTSTRAP)) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bioplaus needs Python 3.11 or newer, but %s is %s" % (sys.executable, sys.version.split()[0]))'
	@echo "Making .venv and installing the pinned packages: 2 to 4 minutes, once."
	@test -x .venv/bin/python || $(call quote,$(BOOTSTRAP)) -m venv .venv
	@$(call install,lab)
	@touch $@

.venv/installed-test: .venv/installed
	@echo "Installing what tests need: half a minute, once."
	@$(call install,lab$(COMMA)test)
	@touch $@

.venv/installed-jupyter: .venv/installed
	@echo "Installing JupyterLab: half a minute, once."
	@$(call install,lab$(COMMA)jupyter)
	@touch $@

bioplaus-in-python:
	@$(RUN) -c 'import bioplaus, papermill' 2>/dev/null || { $(call install,lab); }

tests-in-python: bioplaus-in-python
	@$(RUN) -c 'import hypothesis, nbval, pytest, xdist' 2>/dev/null || { $(call install,lab$(COMMA)test); }

lab-in-python: bioplaus-in-python
	@$(RUN) -c 'import jupyterlab' 2>/dev/null || { $(call install,lab$(COMMA)jupyter); }

data: $(READY)  ## download the data sets that PRESET (and PAPER) needs
	@$(RUN) -m bioplaus data get $(OF_PAPER)

reproduce-figures: $(READY)  ## run what is missing, draw every figure and table, print the path of the report
	@$(RUN) -m bioplaus reproduce $(SELECT) $(SWEEP)

report: $(READY)  ## draw figures, tables and the report from the results there are
	@$(RUN) -m bioplaus report $(SELECT) $(PROCESSES)

test: $(WITH_TESTS)  ## run all tests: pytest, then the notebooks
	@$(ONE_THREAD) $(RUN) -m pytest -n 2 --dist loadgroup
	@$(MAKE) --no-print-directory nbval

faults: $(WITH_TESTS)  ## kill, fill, cut, flip and forge: every fault at its full count, about an hour (FAULTS="--only pickle")
	@$(ONE_THREAD) $(RUN) tests/faults $(FAULTS)

nbval: $(WITH_TESTS)  ## execute every notebook at its small defaults
	@$(ONE_THREAD) $(RUN) -m pytest -p bioplaus.experiments.nbval_plugin -n 2 --dist loadscope --nbval-lax --nbval-current-env Simulations notebooks

benchmark: $(READY)  ## time one training step of each rule against this machine's matrix product
	@$(RUN) -m bioplaus benchmark

compare-jax: $(READY) $(JAX)/installed  ## time the rules against JAX, which gets an environment of its own, .venv-jax
	@$(RUN) benchmarks/jax/compare.py --torch $(RUN) --jax $(call quote,$(JAX)/bin/python)

$(JAX)/installed:
	@$(call quote,$(BOOTSTRAP)) -m venv $(call quote,$(JAX))
	@$(call quote,$(JAX)/bin/python) -m pip install --quiet --disable-pip-version-check jax==0.10.2
	@touch $@

gpu-check: $(WITH_TESTS)  ## on a machine with a GPU, in 10 minutes: GPU tests, benchmark, a published experiment at full scale
	@$(RUN) -m pytest -m gpu tests/test_capture.py tests/rules tests/tasks
	@$(RUN) -m bioplaus benchmark --device cuda
	@$(RUN) -m bioplaus run --preset paper --only corinfomax/mnist/corinfomax --device cuda $(if $(RESULTS),--results $(call quote,$(RESULTS)))

conform: $(READY)  ## replay golden trajectories of the published code (GOLDEN=folder)
	@$(RUN) -m bioplaus conform $(call quote,$(GOLDEN))

status: $(READY)  ## list the runs of PRESET (done, running, failed, missing), and what they cost
	@$(RUN) -m bioplaus status $(SELECT) $(ENTRIES) $(ON_DEVICE)

lab: $(WITH_LAB)  ## open the notebooks in JupyterLab
	@$(RUN) -m jupyter lab notebooks

doctor: $(READY)  ## check the installation and say what to do where it is not fine
	@$(RUN) -m bioplaus doctor

docs: $(READY)  ## build the documentation in build/docs, strictly and offline (the first time some minutes)
	@$(RUN) -c 'import furo, latex2mathml, myst_nb, sphinx_copybutton' 2>/dev/null || { $(call install,lab$(COMMA)docs); }
	@$(ONE_THREAD) $(RUN) -m bioplaus report --preset desk $(PROCESSES)
	@$(ONE_THREAD) $(RUN) -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --builder html . build/docs
	@echo "Documentation: build/docs/index.html"

coverage: $(WITH_TESTS)  ## run the tests and list the lines that none of them runs; build/coverage/html shows them
	@$(RUN) -c 'import pytest_cov' 2>/dev/null || { $(call install,lab$(COMMA)test$(COMMA)coverage); }
	@mkdir -p build/coverage
	@$(ONE_THREAD) $(RUN) -m pytest -n 2 --dist loadgroup --cov --cov-report=term --cov-report=html:build/coverage/html

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
