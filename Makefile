# Both commands are complete on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo broken test corpus lint style fix generate docs clean

demo: $(VENV)/installed
	$(BIN)/python -m lightning_recipe.demo

broken: $(VENV)/installed
	$(BIN)/python -m lightning_recipe.demo --broken

# types, too: tests/test_types.py
test: style
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# what names the causes of the bugs in a folder of programs: make corpus CORPUS=folder; it takes minutes
corpus: $(VENV)/installed
	RECIPE_CORPUS=$(CORPUS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_corpus.py

lint: style
	$(BIN)/mypy

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fix: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# what depends on the list of callbacks: tables, navigation, their pages and pictures
generate: $(VENV)/installed
	PYTHONPATH=tests $(BIN)/python docs/generate.py $(PICTURES)

docs: generate
	$(BIN)/zensical build --clean --strict

# torch first and by itself: other packages would take a newer build with several GB of CUDA
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) recipe_demo site .cache
