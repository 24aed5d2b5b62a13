# One list of commands for people and for CI. The environment is made from environment.yml when it is missing or stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CHECKS := $(VENV)/checks

.PHONY: reproduce test lab lint notebooks environment

reproduce: $(READY)  ## the main job on the demo: runs/demo, figures/demo
	$(BIN)/lmcl reproduce

test: $(READY)  ## every test, then every committed notebook, in folders of their own
	rm -rf $(CHECKS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses auto --dist loadscope --no-loadscope-reorder
	LMCL_RUNS="$(CURDIR)/$(CHECKS)/runs" LMCL_FIGURES="$(CURDIR)/$(CHECKS)/figures" \
		$(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks

lab: $(READY)  ## study the notebooks
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check lmcl_core notebooks tests

notebooks: $(READY)  ## run the committed notebooks anew, in order, outputs in place; the ablation from records alone
	rm -rf $(CHECKS)
	for notebook in notebooks/0*.ipynb; do \
		case $$notebook in */05*) runs=recorded;; *) runs=runs;; esac; \
		LMCL_RUNS="$(CURDIR)/$(CHECKS)/$$runs" $(BIN)/jupyter nbconvert --to notebook --inplace --execute \
			--ExecutePreprocessor.record_timing=False "$$notebook" || exit 1; \
	done

environment: $(READY)

$(READY): environment.yml pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "Python 3.11 to 3.13 is needed; name one, for example: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n 's/^ *- \([A-Za-z0-9_.-]*==[^ ]*\).*/\1/p' environment.yml > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
