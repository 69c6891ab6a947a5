# make demo | test | check | docs | bench -- each creates .venv first if need be.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FOLDERS := tools replay_core agent tasks

.PHONY: demo test check docs links fuzz pair measure bench clean

demo: $(VENV)/installed
	$(BIN)/visreplay demo

# Tiny models are slower on several threads; several processes share the cores instead.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

check: $(VENV)/installed links docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/typed $(BIN)/mypy -p visreplay
	$(BIN)/pytest -q tests/test_layering.py

# The documentation as a site. It must ask nothing of other hosts.
docs: $(VENV)/installed links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rE --include='*.html' '<(script|img|iframe|link)[^>]* (src|href)="?(https?:)?//' build/site

# mypy and mkdocstrings find the folders under their installed names through links.
links:
	mkdir -p build/typed/visreplay
	for folder in $(FOLDERS); do ln -sfn ../../../$$folder build/typed/visreplay/$$folder; done
	for file in __init__.py __init__.pyi py.typed; do ln -sfn ../../../package/$$file build/typed/visreplay/$$file; done

# Tens of thousands of odd requests to the server; other ones each time.
fuzz: $(VENV)/installed
	$(BIN)/pytest --hypothesis-profile=fuzz tests/agent/openai/test_fuzz.py

# Train the embedded pair again, from nothing (resumes where it was stopped).
pair: $(VENV)/installed
	$(BIN)/python recipes/train.py --out runs/recipe

# The README's numbers on the embedded pair.
measure: $(VENV)/installed
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/visreplay analyze visual-search-medium

# Speed and memory against the reference's algorithm; shared rollouts against one by one; the server.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/report.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
