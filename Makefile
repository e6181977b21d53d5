# `make demo` and `make test` do all their own set-up; the first call takes a few minutes, later ones none.
# Another interpreter: make test PYTHON=python3.12    Another environment: make test VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
INSTALL = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# The releases that `make constraints` is not free to move: torch, and the dask that dask-cuda 26.10 (extra hpc) demands.
HELD = torch==2.13.0 dask==2026.7.1

.PHONY: demo test test-slow test-laws docs bench lint constraints clean

demo: $(VENV)/.package
	$(VENV)/bin/downscale demo --out demo
	@echo "Written to demo/:" && ls -l demo

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m "not slow" --doctest-modules tests downscale

# What takes longer: processes that are killed, clusters, trainings, every recipe, notebook and command of the README.
test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m slow tests

# The laws on a thousand drawn cases each, the same at every run. New draws: make test-laws PROFILE=explore
PROFILE ?= thorough
# Which of them: all, or an expression such as LAWS="every_cell or any_target".
LAWS ?= test

test-laws: $(VENV)/.dev
	HYPOTHESIS_PROFILE=$(PROFILE) $(VENV)/bin/python -m pytest -q -n 2 --dist load --maxschedchunk 1 -k "$(LAWS)" tests/test_laws_everywhere.py tests/test_parts.py

# These pages: warnings are errors, nothing is fetched. NOTEBOOKS=off leaves the notebooks unrun (a minute instead of five).
NOTEBOOKS ?= on

docs: $(VENV)/.docs
	DOCS_NOTEBOOKS=$(NOTEBOOKS) $(VENV)/bin/python -m sphinx -b html -W --keep-going -q docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

# Every speed budget, growth and memory, half an hour on a quiet machine. xarray-regrid runs in PEERS, if it is there.
PEERS ?= $(VENV)/bin/python

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/speed.py --peers-python $(PEERS) --write docs/speed.md
	$(VENV)/bin/python benchmarks/scaling.py --write docs/speed.md --plot docs/images/speed_scaling.png
	$(VENV)/bin/python benchmarks/memory.py --gigabytes 20 --write docs/speed.md --plot docs/images/memory.png

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python .ci/words.py

# Made afresh if interrupted: the stamp is the last thing written.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "error: expected Python >= 3.11, found no '$(PYTHON)'; run make with PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: expected Python >= 3.11, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); run make with PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing downscale into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e .
	@touch $@

# What the tests need includes the package, so `make demo` after `make test` installs nothing.
$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing downscale and its development tools into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.package $@

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) -e '.[dev,docs]'
	@touch $@

# The newest version of everything not held, as pip finds it in an empty environment.
constraints:
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install -qq --disable-pip-version-check $(HELD) -e '.[dev,docs]'
	sed -n '/^#/p' constraints.txt > build/constraints.txt
	build/constraints/bin/python -m pip freeze --exclude downscale-climate | sed 's/+[a-z0-9.]*$$//' >> build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean:
	rm -rf $(VENV) build dist demo docs/_build docs/notebooks docs/api/generated .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
