# What a newcomer needs: make run, make test. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
DRIVERS := build/drivers
PY := $(VENV)/bin/python
ARGS ?=

# Neither may a home of Python's that the shell names, nor pip's --user, reach into the virtual environment.
unexport PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX
export PIP_DISABLE_PIP_VERSION_CHECK := 1

EXTENSION := $(wildcard codesvc/_fastcsv.*.so)
EXTENSION_SOURCES := setup.py pyproject.toml $(wildcard codesvc/*.pyx codesvc/*.pxd codesvc/*.h)

.DEFAULT_GOAL := help
.PHONY: help run test lint bench bench-quick sanitize drivers coverage soak fuzz fuzz-native audit sbom build lock clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  ARGS="…" reaches the command: make run ARGS="--port 9000", make test ARGS="-k reserve"'

run: build ## start everything, load 1,000,000 codes, stay up until Ctrl-C
	@$(PY) -m codesvc dev $(ARGS)

test: build ## the native core under sanitizers, fuzzed and measured, then the whole test suite on a real mongod
	@$(PY) .ci/tools.py
	@$(MAKE) --no-print-directory -j 2 --output-sync sanitized covered
	@$(PY) tests/native/fuzz 60
	@$(MAKE) --no-print-directory drivers ARGS='-q -k "not test_model and not test_bursts"'
	@# Two at once, since most tests wait for a process or a clock; those of one file share what they start. In the
	@# order of the folders: the last ones have many short tests, so that neither of the two waits for the other.
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: sanitized covered
sanitized:
	@$(PY) tests/native/sanitize.py -q
covered: # by those tests that do not run for long: it is enough to see that the shares are measured
	@$(PY) tests/native/measure_coverage.py -k "interface or batches or lookup or write_reply or distinct"

drivers: build $(DRIVERS)/.installed ## the datastore's tests, on the oldest drivers of MongoDB that are allowed
	@PYTHONPATH=$(DRIVERS) $(PY) -c 'import motor, pymongo; print(f"PyMongo {pymongo.version}, Motor {motor.version}")'
	@PYTHONPATH=$(DRIVERS) $(PY) -m pytest -n 2 --dist loadfile tests/datastore $(ARGS)

lint: build ## formatter, linter, strict types, stubs, and a build whose warnings are errors
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@# Each folder of tests by itself, as pytest imports it: conftest is a module of several.
	@for part in codesvc benchmarks $$(git ls-files 'tests/*.py' | cut -d/ -f1-2 | sort -u); do \
		echo "mypy $$part" && $(PY) -m mypy $$part || exit 1; done
	@$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml codesvc._fastcsv
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
		CODESVC_BUILD_WERROR=1 $(PY) setup.py -q build_ext --force \
			--build-lib "$$scratch/lib" --build-temp "$$scratch/temp" && \
		echo "The extension builds without a warning"

bench: build $(VENV)/.bench ## the benchmark suites and their report
	@$(PY) -m benchmarks $(ARGS)

bench-quick: build $(VENV)/.bench ## every benchmark, once and small: it still runs
	@$(PY) -m benchmarks --quick $(ARGS)

sanitize: build ## the native core's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(PY) tests/native/sanitize.py $(ARGS)

soak: build ## callers, uploads, and faults of every part for half an hour, and what was lost; ARGS="--seconds 3600"
	@PYTHONPATH=tests $(PY) -m soak $(ARGS)
	@$(if $(ARGS),,FAULTS=all $(PY) -m pytest -q tests/faults/test_every_command.py tests/api/test_survival.py)

fuzz: build ## requests made of the OpenAPI document for ten minutes; FUZZ_SECONDS=3600, FUZZ_SEED=7
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(PY) -m pytest tests/api/test_fuzz.py $(ARGS)

coverage: build ## the shares of the native core's lines that its tests run; it fails below 85 %, and where it reads nothing
	@$(PY) tests/native/measure_coverage.py $(ARGS)

fuzz-native: build ## the native core fed with what reaches most of it, under sanitizers, for ten minutes; FUZZ_SECONDS=3600
	@$(PY) tests/native/fuzz $(or $(FUZZ_SECONDS),600) $(ARGS)

audit: build/audit/.installed ## look every locked version up among the known vulnerabilities; needs the network
	@build/audit/bin/python .ci/audit.py $(ARGS)

sbom: build ## write what the image holds to build/sbom.cdx.json (CycloneDX)
	@mkdir -p build && $(PY) deploy/sbom.py requirements/prod.txt > build/sbom.cdx.json && echo "build/sbom.cdx.json"

build: $(VENV)/.built ## .venv with the locked dependencies, and the extension

# No index and no link of this machine may get into the lock files.
COMPILE := build/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --upgrade

lock: $(VENV)/.made ## write requirements/*.txt again from pyproject.toml
	@$(PY) -m venv build/lock
	@build/lock/bin/python -m pip install -qq 'uv>=0.9,<1'
	@$(PY) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > build/build.in
	@$(COMPILE) pyproject.toml -o requirements/prod.txt
	@$(COMPILE) --extra dev -c requirements/prod.txt pyproject.toml -o requirements/dev.txt
	@$(COMPILE) --extra bench -c requirements/dev.txt pyproject.toml -o requirements/bench.txt
	@$(COMPILE) -c requirements/dev.txt build/build.in -o requirements/build.txt
	@sed -nE 's/^ *"(motor|pymongo)>=([0-9.]+),.*/\1==\2/p' pyproject.toml > build/drivers.in
	@$(COMPILE) --no-deps build/drivers.in -o requirements/oldest-drivers.txt
	@$(PY) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["audit"], sep="\n")' \
		> build/audit.in
	@$(COMPILE) build/audit.in -o requirements/audit.txt
	@if grep -nE '^(-|[^ ]*://)' requirements/*.txt; then echo "A lock file names an index" >&2; exit 1; fi

clean: ## remove what make made; the data in .codesvc/ stays
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@rm -f codesvc/_fastcsv.c codesvc/_fastcsv.*.so
	@find codesvc tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv whose python3 is gone is made anew.
$(VENV)/.made: $(if $(wildcard $(PY)),,FORCE)
	@command -v $(PYTHON) >/dev/null || \
		{ echo "codesvc cannot be built: there is no $(PYTHON): apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) .ci/preflight.py
	@echo "Making $(VENV)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/.installed: requirements/dev.txt $(VENV)/.made
	@echo "Installing what requirements/dev.txt pins (the first time, a few minutes)"
	@$(PY) -m pip install -qq --require-hashes -r requirements/dev.txt && touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.installed
	@echo "Installing what requirements/bench.txt pins (pyarrow and polars are large)"
	@$(PY) -m pip install -qq --require-hashes -r requirements/bench.txt && touch $@

$(DRIVERS)/.installed: requirements/oldest-drivers.txt $(VENV)/.installed
	@rm -rf $(DRIVERS)
	@$(PY) -m pip install -qq --no-deps --require-hashes --target $(DRIVERS) -r $< && touch $@

# The auditor's own packages are nobody else's business.
build/audit/.installed: requirements/audit.txt $(VENV)/.made
	@$(PY) -m venv build/audit && build/audit/bin/python -m pip install -qq --require-hashes -r requirements/audit.txt
	@touch $@

$(VENV)/.built: $(EXTENSION_SOURCES) $(VENV)/.installed $(if $(EXTENSION),,FORCE)
	@echo "Building the extension"
	@$(PY) -m pip install -qq --no-deps --no-build-isolation -e . && touch $@

FORCE:
