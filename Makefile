# The two commands of the README are `make run` and `make test`; each creates .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run seeds one-image test test-slow format clean

run: .venv/.installed
	$(BIN)/stillhouse run pipeline.yaml

seeds: .venv/.installed
	$(BIN)/stillhouse run pipeline.yaml --seeds 3

one-image: .venv/.installed
	$(BIN)/stillhouse ingest pipeline.yaml
	$(BIN)/stillhouse run examples/one_image.yaml

test: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks
	PYTHONPATH=.typing $(BIN)/lint-imports
	$(BIN)/pytest -m "not slow"

test-slow: .venv/.installed-test
	$(BIN)/pytest -m slow

format: .venv/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[cpu,demo]'
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[cpu,demo,test]'
	touch $@

clean:
	rm -rf .venv out build *.egg-info
