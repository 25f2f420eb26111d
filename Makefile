# A newcomer needs `make demo` and `make test`; both install what is missing into .venv first.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
SOURCES := autoscaler ray_jobs data tests benchmarks

.PHONY: install demo test test-cloud test-jobs check bench clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock requirements-host.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-host.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	@$(BIN)/python -m ray_jobs.demo

# Two lanes beside each other, for tests of clusters mostly wait; what the first one says is shown
# when it has ended. No test of the first starts a Ray on this machine: Rays would meet.
test: install
	@$(MAKE) --no-print-directory -j2 test-cloud test-jobs

test-cloud: install
	@said=$$(mktemp); $(BIN)/python -m pytest tests/cloud tests/unit >$$said 2>&1; status=$$?; \
	    cat $$said; rm $$said; exit $$status

test-jobs: install
	$(BIN)/python -m pytest tests --ignore tests/cloud --ignore tests/unit

check: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports

# Every row of benchmarks/RESULTS.md; hours on two cores.
bench: install $(PEERS)/.installed
	$(PEERS)/bin/python benchmarks/sae_step.py
	$(BIN)/python benchmarks/sae_memory.py
	$(BIN)/python -m benchmarks.sae_sinks
	$(PEERS)/bin/python benchmarks/export_peers.py
	$(BIN)/python -m benchmarks.harvest
	$(BIN)/python -m benchmarks.bounded_memory
	$(BIN)/python benchmarks/checkpoint_stall.py
	$(PEERS)/bin/python -m benchmarks.waltz_step
	$(BIN)/python -m benchmarks.waltz_memory
	$(BIN)/python -m benchmarks.waltz_memory --stages 1,2,3 --dtypes bfloat16
	$(BIN)/python -m benchmarks.waltz_elastic
	$(BIN)/python -m benchmarks.waltz_demo
	$(BIN)/python -m ray_jobs.demo
	$(BIN)/python benchmarks/pii_latency.py --run-dir runs/demo
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.node_start
	$(BIN)/python -m benchmarks.node_start --full-setup --nodes 2
	$(BIN)/python -m benchmarks.node_demand
	$(BIN)/python -m benchmarks.provider_faults
	$(BIN)/python -m benchmarks.provider_schedules --count 10000
	$(BIN)/python -m benchmarks.provider_schedules --count 1000 --autoscaler v1

# The libraries we compare with; torchvision comes for CUDA and would break a CPU transformers.
$(PEERS)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) runs
