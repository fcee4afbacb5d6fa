.DEFAULT_GOAL := help
PY := .venv/bin/python
ROUNDS ?= 50
JOBS ?= 1

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Set up .venv with everything that a developer needs
	@scripts/setup dev

lock: ## Lock requirements/*.in into *.txt, with hashes, for all platforms
	@scripts/setup dev
	@for name in base test dev; do \
		$(PY) -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header \
			--no-emit-index-url -o requirements/$$name.txt requirements/$$name.in || exit 1; \
	done

run: ## Set up, then CLOS in the foreground
	@./clos up

demo: ## Set up, then the main job on a sample group
	@./clos demo

test: ## Set up, then every test that this machine can run, and what was left out
	@scripts/setup test
	@scripts/run-tests $(ARGS)

lint: ## Check style and format
	@scripts/setup dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: ## Check types, strictly
	@scripts/setup dev
	@$(PY) -m mypy

imports: ## Check who may import whom
	@scripts/setup dev
	@.venv/bin/lint-imports

faults: ## Run the full fault campaigns (ROUNDS=50, JOBS=1 of them at a time)
	@scripts/setup test
	@$(PY) -m tests.faults --rounds $(ROUNDS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

bench: ## Measure, and write tests/performance/results
	@scripts/setup test
	@$(PY) -m tests.performance.benchmarks

migration: ## Write a migration for what changed in models/ (name=what_changed)
	@scripts/setup dev
	@test -n "$(name)" || { echo "say name=what_changed"; exit 2; }
	@DATABASE_PATH=$$(mktemp -u) sh -c '$(PY) -m alembic upgrade head && $(PY) -m alembic revision --autogenerate -m "$(name)"; \
		code=$$?; rm -f "$$DATABASE_PATH" "$$DATABASE_PATH"-*; exit $$code'

clean: ## Remove what tools left behind; .venv stays
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis htmlcov build dist *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	@rm -f .coverage .coverage.*

.PHONY: help setup lock run demo test lint types imports faults bench migration clean
