# One list of commands for people and for CI. The environment is created from environment.yml if missing or outdated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CHECKS := $(CURDIR)/$(VENV)/checks
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
IN_CHECKS := OMP_NUM_THREADS=1 LMCL_RUNS="$(CHECKS)/runs" LMCL_FIGURES="$(CHECKS)/figures"
# precision, workers (two workers have one thread each on two cores), learning rate (3e-4, or a millionth more)
ROUNDINGS := bf16-mixed:1:3e-4 bf16-mixed:2:3e-4 bf16-mixed:2:3.000003e-4 32-true:1:3e-4 32-true:2:3e-4 32-true:2:3.000003e-4
NBVAL := $(IN_CHECKS) $(BIN)/python -m pytest --nbval-lax --nbval-current-env

.PHONY: reproduce test check fuzz lab lint notebooks tolerances environment

reproduce: $(READY)  ## reproduce the results on the demo in runs/, and compare them with figures/demo
	$(BIN)/lmcl reproduce

test: $(READY)  ## every test, then every committed notebook, headless and in a browser, in their own folders
	$(PYTEST) tests -m "not browser" --numprocesses auto --dist loadscope --no-loadscope-reorder
	rm -rf "$(CHECKS)"
	@# Notebook 04 compares two recipes: the runs of one are trained beside notebooks 02 and 03, which train the other.
	for split in 0 1; do $(IN_CHECKS) $(BIN)/lmcl train --recipe no-manifold --split $$split || exit 1; done & \
		$(NBVAL) notebooks/02* notebooks/03*; checked=$$?; wait $$! && exit $$checked
	$(NBVAL) --numprocesses 2 --dist loadfile --no-loadscope-reorder $(addprefix notebooks/,04* 07* 08* 06* 05* 01*)
	@# In JupyterLab, with the runs that are finished now; skipped without chromium.
	$(IN_CHECKS) LMCL_SCREENSHOTS="$(CHECKS)/screenshots" $(BIN)/python -m pytest tests/browser --numprocesses 2

check: $(READY)  ## the quick tests
	$(PYTEST) tests -m "not slow" --numprocesses auto --dist loadscope

fuzz: $(READY)  ## damaged and hostile inputs, others in each call, for about 10 minutes on two cores
	$(PYTEST) tests/fuzz --hypothesis-profile fuzz --numprocesses 2 --timeout 0

lab: $(READY)  ## study the notebooks
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check lmcl_core notebooks tests

notebooks: $(READY)  ## execute the committed notebooks in order and keep their outputs; the ablation from records only
	rm -rf "$(CHECKS)"
	for notebook in notebooks/0*.ipynb; do \
		case $$notebook in */05*) runs=recorded;; *) runs=runs;; esac; \
		LMCL_RUNS="$(CHECKS)/$$runs" LMCL_FIGURES="$(CURDIR)/figures" $(BIN)/jupyter nbconvert --to notebook --inplace --execute \
			--ExecutePreprocessor.record_timing=False "$$notebook" || exit 1; \
	done

tolerances: $(READY)  ## repeat the demo with other roundings, and measure the tolerances of the comparison
	for rounding in $(ROUNDINGS); do \
		set -- $$(echo $$rounding | tr : ' '); \
		$(BIN)/lmcl reproduce --runs-dir runs/repeats/$$rounding --set precision=$$1 --workers $$2 --set lr=$$3 || exit 1; \
	done
	$(BIN)/python -m lmcl_core.results.reproduction demo runs/repeats/*/figures/demo

environment: $(READY)

$(READY): environment.yml pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "Python 3.11 to 3.13 is needed; name one, for example: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n 's/^ *- \([A-Za-z0-9_.-]*==[^ ]*\).*/\1/p' environment.yml > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
