PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo-run
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

# Hundreds of processes start in a test run; without bytecode each would compile the project anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long check docs bench clean

demo: $(STAMP)
	@$(BIN)/vrshq label pipelines/demo/instructions.jsonl --output $(DEMO)
	@$(BIN)/vrshq report $(DEMO)

test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

# a cluster of one of these tests asks for a token, and Ray reads this variable once in a process
test-long: $(STAMP)
	RAY_AUTH_MODE=token $(BIN)/pytest -m long $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo site/index.html

# the counts of model calls and the times of the shared schedule, at tiny sizes: half a minute on two cores
bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_schedule --quick --dims tiny

# torch comes first, because sam2 is built against it: pip's own isolated build would fetch a second copy
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch torchvision setuptools wheel
	$(PIP) --constraint constraints.txt --no-build-isolation sam2
	$(PIP) --constraint constraints.txt --no-build-isolation --editable ".[app,dev,docs,jobs]"
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) site
