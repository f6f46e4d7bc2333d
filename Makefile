# make demo   sets up .venv, pre-trains HaLP on the embedded data set, evaluates, draws: runs/demo
#             (make demo VARIANT=halp_cmd: joint, motion and bone together, into runs/demo_halp_cmd)
#             (make demo VARIANT=graphs: GraphCL and HaLP on the embedded graphs, into runs/demo_graphs;
#             SOURCE=MUTAG.zip: on those of an archive)
# make test   sets up .venv, runs the tests, long ones left out (make test ALL=1: all, as .ci/run)
# make lint   ruff
# make notebooks   sets up .venv, runs all notebooks from their first cell to their last
# make docs   sets up .venv, builds the site into build/site; a broken link or reference fails
PYTHON ?= python3
PY := .venv/bin/python
# XLA's buffers in huge pages: large steps on a CPU are a seventh faster, or more (PERFORMANCE.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# Tests that compile much share two cores best as two processes of one thread each.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test lint notebooks docs clean

.venv/installed: requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'halp_jax needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	$(PY) -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

demo: .venv/installed
	$(PY) -m halp_jax.demo --workdir=runs/demo$(if $(VARIANT),_$(VARIANT) --variant=$(VARIANT))$(if $(SOURCE), --source=$(SOURCE))

test: .venv/installed
	$(PY) -m pytest -n $(JOBS) --dist loadfile$(if $(ALL), -m 'not slow')

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/notebooks: .venv/installed requirements-notebooks.txt
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-notebooks.txt
	touch $@

notebooks: .venv/notebooks
	$(PY) -m pytest -m slow --durations=4 tests/test_notebooks.py

.venv/docs: .venv/installed requirements-docs.txt
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-docs.txt
	touch $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "build/site/index.html is the site; with its search: $(PY) -m http.server -d build/site"

clean:
	rm -rf .venv build runs
