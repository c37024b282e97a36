# Each target does all the set-up it needs: a virtual environment in .venv with pinned versions.
PYTHON ?= python3
PY := .venv/bin/python
DONE := .venv/.installed
APP := .venv/.app
# Two processes of one thread each; two of two threads would get in each other's way on two cores.
TWO := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install trace study test test-quick test-long test-network notebooks lab app student slides pages site exam bench model clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(DONE) ## set up .venv with pinned versions and the kit, editable

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $(DONE)

trace: $(DONE) ## run the main job on the built-in model; leaves runs/first/report.html
	$(PY) -m mctrace_nb trace --model tutorial --task professions --components head_output --budget 2 --draws 10 --seed 0 --out runs/first --force

study: $(DONE) ## run a small study on the built-in models; leaves runs/study/study.html
	$(PY) -m mctrace_nb sweep data/small_study.yaml --out runs/study --workers 2

test: $(DONE) ## all tests (under 15 minutes on two cores)
	$(TWO) -m "not long and not network"
	TQDM_DISABLE=1 $(TWO) --nbval --nbval-current-env notebooks

test-quick: $(DONE) ## the tests of one room at a time (under 2 minutes)
	$(TWO) -m "not long and not slow and not network"

test-long: $(DONE) ## kill tests, whole sweeps and simulations
	$(PY) -m pytest -q -m "long and not network"

test-network: $(DONE) ## compare with published effects of GPT-2 (downloads its weights)
	$(PY) -m pytest -q -m network

notebooks: $(DONE) ## execute all notebooks and save their outputs
	$(PY) -m mctrace_nb notebooks notebooks

lab: $(DONE) ## open JupyterLab on the first notebook of the course
	$(PY) -m jupyterlab notebooks/00_start_here.ipynb

app: $(APP) ## two explorers for showing in class, on a page of their own in the browser
	$(PY) -m mctrace_nb app

$(APP): $(DONE)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[app]'
	@touch $(APP)

student: $(DONE) ## copies for students in build/student, and a source for nbgrader in build/nbgrader
	$(PY) -m mctrace_nb course student

slides: $(DONE) ## the lecture version of each lesson in build/slides
	$(PY) -m mctrace_nb course slides

pages: $(DONE) ## every notebook as an HTML file that opens offline, in build/pages
	$(PY) -m mctrace_nb course pages

site: $(DONE) ## the README, all notebooks, guides and the reference as a book that opens offline, in build/site
	$(PY) -m mctrace_nb site

exam: $(DONE) ## an exam drawn from the exercises, with its marking scheme, in build/exam
	$(PY) -m mctrace_nb course exam

bench: $(DONE) ## measure speed and quality, write bench.json
	$(PY) -m mctrace_nb bench --out bench.json

model: $(DONE) ## train the tutorial model anew into build/tutorial (about 10 minutes)
	$(PY) -m mctrace_nb tutorial --out build/tutorial

clean: ## remove what was generated (not .venv)
	rm -rf build dist runs bench.json .pytest_cache
