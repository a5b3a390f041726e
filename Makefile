# Everything installs itself: the first target that needs Python makes .venv from pinned versions.
# make run PYTHON=python3.12 TORCH_INDEX=https://...   another Python; another index for torch (a CPU build, say)
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export BENTOML_DO_NOT_TRACK := True
export JUPYTER_PLATFORM_DIRS := 1
# compiled files make every later start twice as fast
unexport PYTHONDONTWRITEBYTECODE
# threads that wait must not spin: on few cores they take the time of those that work
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help run test lab prep smoke bento clean

help:  ## show this
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY)  ## from the requirement to a served answer; again: only what changed
	@$(BIN)/fsml loop $(ARGS)

smoke: $(READY)  ## the same on a handful of pictures, in a storage of its own
	@$(BIN)/fsml loop profile=smoke $(ARGS)

test: $(READY)  ## notebooks, then everything that must hold
	@echo "make test: notebooks (a few minutes)"
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --do_print --pause 0.2
	@echo "make test: the rest"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests $(ARGS)

lab: $(READY)  ## JupyterLab; begin with nbs/tutorials/tour.ipynb
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --ServerApp.ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) nbs/tutorials/tour.ipynb $(ARGS)

prep: $(READY)  ## before a commit: export, clean, README, floor plan and notebook rules
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean
	@$(BIN)/jupyter nbconvert --log-level=ERROR --to markdown --output-dir=. --output=README nbs/index.ipynb
	@$(BIN)/python -m pytest -q tests/test_floorplan.py tests/test_notebooks.py tests/test_conf.py tests/test_docs.py

bento: $(READY)  ## build the bento of the newest release
	@$(BIN)/fsml bento $(ARGS)

clean:  ## remove the environment and caches; artifacts/ stays, it may hold people's work
	rm -rf $(VENV) build dist *.egg-info .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): constraints.txt settings.ini pyproject.toml setup.py
	@echo "make: setting up $(VENV) from pinned versions (one to two minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@grep -vE '$(if $(TORCH_INDEX),^(torch|torchvision|triton|nvidia-|cuda-),^$$)' constraints.txt > $(VENV)/constraints.txt
	@$(if $(TORCH_INDEX),$(BIN)/uv pip install --quiet --python $(BIN)/python -c $(VENV)/constraints.txt --index $(TORCH_INDEX) --index-strategy unsafe-best-match torch torchvision,true)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c $(VENV)/constraints.txt -e '.[dev]'
	@$(BIN)/python -m ipykernel install --prefix $(VENV) --name python3 --display-name "Python 3 (fullstack_ml)" > /dev/null
	@if git rev-parse --git-dir > /dev/null 2>&1; then $(BIN)/nbdev_install_hooks > /dev/null 2>&1 || true; \
	  sed -i 's#\(^\|= *\)nbdev_#\1$(CURDIR)/$(BIN)/nbdev_#' "$$(git rev-parse --git-path hooks/post-merge)" .gitconfig 2> /dev/null || true; fi
	@touch $@
