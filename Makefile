# `make` lists the targets. `make run` and `make test` set up everything themselves, in .venv.
.DEFAULT_GOAL := help
.PHONY: help setup run test tests test-extended proofs lint sample docs picture bench audit \
  constraints public release try-wheel clean

PYTHON ?= python3
BIN := .venv/bin
# What of pyproject.toml's extras is installed into .venv: `dev` is all, `test` what the tests need themselves.
EXTRAS ?= dev
# The versions that are installed: `make CONSTRAINTS=/dev/null` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
STAMP := .venv/stamp$(filter-out -dev,-$(EXTRAS))

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

# The stamp is newer than both files once everything that they name is installed.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "evo-tune needs Python 3.10 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	echo $(CONSTRAINTS) > $@

setup: $(STAMP)  ## make .venv and install evo-tune into it

run: setup  ## evolve a small language model with the default settings (3 minutes of search)
	$(BIN)/evo-tune run

# Tests that `make test` leaves out and CI runs: see the markers in pyproject.toml.
EXTENDED := slow or cluster or extended

# Without compiled files on disk, hundreds of processes would compile the same modules again.
tests test-extended: export PYTHONDONTWRITEBYTECODE :=
test: lint tests  ## lint, then the tests to run before every commit

tests: setup  ## these tests alone; with EXTRAS=test in a new .venv: those that need no optional package
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not ($(EXTENDED))"

test-extended: setup  ## the tests that `make test` leaves out: clusters, browsers, every evaluator with every option
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "$(EXTENDED)"

proofs: setup  ## what takes too long for the suite: the README to the letter, hostile folders, the storm (an hour)
	$(BIN)/python -m pytest --proofs
	HOSTILE_EXAMPLES=1000 $(BIN)/python -m pytest --timeout 6000 tests/test_hostile_fuzz.py
	$(BIN)/python -m pytest --all-slots tests/dispatch
	$(BIN)/python benchmarks/chaos.py --rounds 200
	$(BIN)/python benchmarks/chaos.py --mutants --rounds 12
	$(BIN)/python benchmarks/chaos.py --backend dask --rounds 8
	$(BIN)/python benchmarks/chaos.py --backend ray --rounds 8

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sample: setup  ## make populations/sample anew
	rm -rf populations/sample
	$(BIN)/evo-tune run --name sample --seed 1 --population 8 --generations 4 -o flops=1e11 --order proposal
	rm -rf populations/sample/_trials

docs: setup  ## make the documentation site in docs/_build, without a network
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

picture: setup  ## make the README's picture of a report anew (needs chromium)
	$(BIN)/python docs/make_picture.py

bench: setup  ## install what the benchmarks compare with, then list them
	$(BIN)/python $(PIP_INSTALL) --constraint $(CONSTRAINTS) --editable '.[dev,bench]'
	@grep -ohE 'python benchmarks/[a-z_]+\.py[^`|]*' benchmarks/README.md

audit: setup  ## look for known vulnerabilities of the versions in constraints.txt, where pip-audit and its data can be had
	@$(PYTHON) -m venv .venv/audit && .venv/audit/bin/python $(PIP_INSTALL) pip-audit \
	  || { echo "not audited: pip-audit cannot be installed here"; exit 0; }; \
	rm -f .venv/audit/found.json; \
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --format json \
	  --output .venv/audit/found.json 2> .venv/audit/log; code=$$?; \
	[ -s .venv/audit/found.json ] || { echo "not audited: $$(tail -n 1 .venv/audit/log)"; exit 0; }; \
	tail -n 1 .venv/audit/log; exit $$code

constraints:  ## choose the versions in constraints.txt anew; UPGRADE=--upgrade takes the newest (needs a network)
	$(PYTHON) -m venv build/uv
	build/uv/bin/python $(PIP_INSTALL) uv
	build/uv/bin/python .ci/constraints.py $(UPGRADE)

public: setup  ## record the public names in tests/public.txt: see docs/stability.md
	$(BIN)/python -m tests.public

release: setup  ## build sdist, wheel and the tag's notes in dist/, and check them: see RELEASING.md
	$(BIN)/python .ci/release.py

try-wheel:  ## install the wheel of dist/ into an empty environment, and run it in an empty folder
	rm -rf build/try
	$(PYTHON) -m venv build/try
	build/try/bin/python $(PIP_INSTALL) --constraint $(CONSTRAINTS) dist/*.whl
	mkdir build/try/folder
	cd build/try/folder && ../bin/evo-tune run --trials 4
	build/try/bin/python .ci/release.py sizes

clean:  ## remove .venv and caches (saved runs stay)
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
