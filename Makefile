.PHONY: demo test test-quick test-faults bench lint image clean
version := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' entrypoint/pgslipway/__init__.py)

demo:  ## show the main job, in containers if there is a Docker engine
	tests/setup/demo.sh

test: export MAY_INSTALL := 1
test: .venv/ready  ## check everything; as root on Debian or Ubuntu it installs what is missing
	tests/setup/test.sh

test-quick: .venv/ready  ## the unit tests that need no server: half a minute
	PGSLIPWAY_QUICK=1 .venv/bin/pytest --numprocesses=2 --quiet -m "not needs_server and not faults" tests/unit

test-faults: .venv/ready  ## the slow part: every fault, systematically; where CI is set, `make test` has a sample of it
	PGSLIPWAY_FAULTS_EVERY=$${PGSLIPWAY_FAULTS_EVERY:-1} .venv/bin/pytest -m faults tests/faults

bench: export MAY_INSTALL := 1
bench: .venv/ready  ## measure it beside its peers, which takes an hour and a half, and write docs/benchmarks.md
	bench/bench.sh $(if $(PARTS),--parts $(PARTS)) $(if $(ANEW),--anew)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

image:  ## pgslipway:1 for your own Dockerfile, and my-app-migrations with the files of migrations/
	docker build --quiet --build-arg VERSION=$(version) --target base --tag pgslipway:dev --tag pgslipway:1 .
	docker build --quiet --build-arg VERSION=$(version) --tag my-app-migrations .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/ready: requirements-dev.txt pyproject.toml
	tests/setup/venv.sh
	touch $@
