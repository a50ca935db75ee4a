# Two commands do everything on a machine with Python 3.11 or later: `make demo` and `make test`.
# `make test-fast` is what to run while working; `make test-wide` is for slow kinds and says what it couldn't run.
PYTHON ?= $(firstword $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done))
BIN := .venv/bin

.PHONY: demo test test-fast test-wide check bench setup clean

demo: setup
	$(BIN)/kinolab demo --out out/demo

# What several tests of a file share is made once: a process works through neighbours, and takes over another's at the end.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow and not wide"

# WIDE names a part of them: make test-wide WIDE=tests/video
test-wide: setup
	$(PYTEST) -m wide $(WIDE)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or later is needed, and was not found on the PATH" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text,train,eval,interop,studio,dev]'
	@touch .venv/.done

clean:
	rm -rf .venv out
