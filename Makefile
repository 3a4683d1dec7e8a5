# `make run` and `make test` are all a newcomer needs; both install into .venv first, once.

PYTHON ?= python3
N ?= 100
OUT ?= runs/first

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup run lint fast check usual test whole torture browser docs wheel bench bench-gpu format constraints clean

setup: $(INSTALLED)
	@:

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "python3 is %d.%d, expected 3.11 or newer; name one: make setup PYTHON=python3.11" % sys.version_info[:2])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv, once; this takes some minutes."
	@# pip builds this package with the pinned versions too: newer pips read them from the second name.
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/pip install -q --disable-pip-version-check -e '.[dev,docs,hub]'
	@touch $@

run: setup
	$(BIN)/thoughtlens run --n $(N) --out $(OUT)
	@echo "Results are in $(OUT)/: manifest.json, results.jsonl, attention.zarr, analysis/, figures/"

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests of a second or less: arithmetic on made-up attention, texts, names, plans. Nothing is trained or drawn, and no
# published set is read.
LONG := $(addprefix tests/analysis/test_,archive.py cautions.py compare.py curves.py effects.py evidence.py holdout.py \
	hubs.py influence.py kept.py null_run.py ranking.py rollout.py summary.py verdict.py) \
	tests/problems/test_published_sets.py tests/reasoning/test_captured_steps.py
FAST := tests/published/test_published.py tests/published/test_step_indexed.py \
	$(filter-out $(LONG),$(wildcard $(addsuffix /test_*.py,tests/analysis tests/problems tests/reasoning))) \
	$(addprefix tests/cuts/test_,answer_positions.py controls.py edits.py interventions.py planning.py specs.py) \
	$(addprefix tests/test_,effects_schema.py files.py house.py names.py order_labels.py)

fast: setup
	$(BIN)/pytest -n 2 --dist worksteal -q -m "not slow" $(FAST)

# A minute on two processors: before each commit.
check: setup
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint fast

# Each process takes a third of the files, in order, so that what a file's tests share is made once; the examples in
# docstrings are among them. Three processes for two processors: tests also wait, for clusters, kernels and browsers.
fast usual whole: export OMP_NUM_THREADS = 1
usual: setup
	$(BIN)/pytest -n 3 --dist worksteal -q --doctest-modules -m "not nightly" src tests

test: setup
	@$(MAKE) --no-print-directory -j 2 lint usual

# With the tests that show for more sizes and kinds what a test beside them shows; the nightly workflow runs it.
whole: setup
	$(BIN)/pytest -n 3 --dist worksteal -q --doctest-modules src tests

# The tests of tests/robustness at full size, about two hours: files of each kind damaged 300 times, a kill and an error of
# the disk at every write, twenty races of three processes.
torture: export THOUGHTLENS_FUZZ = 300
torture: export THOUGHTLENS_WRITES = all
torture: export THOUGHTLENS_RACES = 20
torture: export THOUGHTLENS_KILLS = 10
torture: setup
	$(BIN)/pytest -n 3 --dist worksteal -q tests/robustness tests/runs/test_kill.py

# What the tests of the report's page need; they are skipped without it. Debian's Chromium, and Playwright to drive it.
browser: setup
	@command -v chromium || command -v google-chrome || { apt-get update -qq && apt-get install -y -qq chromium; }
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q --disable-pip-version-check playwright axe-playwright-python

# The documentation, in build/site/index.html. Warnings are errors; the notebooks and the gallery are run, about two minutes.
docs: export OMP_NUM_THREADS = 1
docs: setup
	@rm -rf build/site
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build -E -W --keep-going -q -b html -d build/doctrees docs build/site
	@echo "The documentation is in build/site/index.html"

# The package as users get it: built, installed in an empty environment outside of the checkout, and run there without a
# network (if the system lets us take it away).
wheel: export PIP_CONSTRAINT = $(CURDIR)/constraints.txt
wheel: export PIP_BUILD_CONSTRAINT = $(CURDIR)/constraints.txt
wheel: export HF_HUB_OFFLINE = 1
wheel: setup
	@rm -rf dist && $(BIN)/pip wheel -q --disable-pip-version-check --no-deps --wheel-dir dist .
	@folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && wheel=$$(ls $(CURDIR)/dist/*.whl) && cd $$folder \
		&& $(PYTHON) -m venv empty && empty/bin/pip install -q --disable-pip-version-check $$wheel \
		&& $$(unshare -rn true 2>/dev/null && echo unshare -rn) empty/bin/thoughtlens run --n 5 --out run \
		&& empty/bin/python -c 'import thoughtlens; print(thoughtlens.__file__)' \
		&& ls -l $$wheel run/report.html

# Figures of this machine, about two hours on an idle one; THOUGHTLENS_DATA names the folder of gsm8k_train.jsonl. Each
# line can be run by itself, with --help for what it takes; the 1B shape needs 8 GB.
bench: export OMP_NUM_THREADS = 1
bench: setup
	$(BIN)/python -W ignore -m benchmarks.extraction
	$(BIN)/python -W ignore -m benchmarks.extraction --model llama --rounds 5
	$(BIN)/python -W ignore -m benchmarks.sweeps
	$(BIN)/python -W ignore -m benchmarks.cuts
	$(BIN)/python -W ignore -m benchmarks.cost_check
	$(BIN)/python -W ignore -m benchmarks.cost
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.analysis_speed

# Where there is a GPU, four minutes of it; elsewhere it says what it would check.
bench-gpu: setup
	$(BIN)/python -W ignore -m benchmarks.gpu

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Pins what .venv holds now: install the newer versions there first, and run the tests.
constraints:
	@{ grep '^#' constraints.txt; \
		{ $(BIN)/pip freeze --exclude thoughtlens | grep -v '^#'; grep -E '^(editables|hatchling|tomlkit|trove-classifiers)==' constraints.txt; } \
		| sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -fu; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
