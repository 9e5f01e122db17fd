# The front door. Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help

.PHONY: help setup setup-libvirt demo test check bench dashboard docs deb install clean
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install Debian and Python packages, build what is compiled; the commands are then in .venv/bin
	@tools/setup

setup-libvirt: setup ## what guests as machines need besides: libvirt, QEMU and the binding that fits
	@tools/setup-libvirt

demo: setup ## the main job on this machine: WordPress on two guests, broken in five ways, healed (KEEP=1 leaves it running; INFRASTRUCTURE=libvirt: on machines)
	@[ "$(INFRASTRUCTURE)" != libvirt ] || tools/setup-libvirt
	@INFRASTRUCTURE="$(INFRASTRUCTURE)" $(PY) -m demo

test: setup ## every test, on real guests and daemons (as root); installs what they need, QEMU and libvirt too
	@tools/setup-tests
	@$(PY) -m pytest -n 2 --reruns 1 --max-suite-reruns 4 --rerun-show-tracebacks $(ARGS)

check: setup ## lint, types, layers
	@.venv/bin/ruff check src tests bench demo
	@.venv/bin/ruff format --check src tests bench demo
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup ## measurements as ratios against the peers, one JSON object a row (NAME=memory|decision|…)
	@$(PY) -m bench $(NAME)

dashboard: setup ## build the live page that the daemon serves at /ui/ (installs nodejs and npm)
	@tools/dashboard

docs: setup ## build the documentation as pages in build/docs; warnings are errors
	@.tools/bin/uv pip install -q --python .venv/bin/python --group docs
	@.venv/bin/sphinx-build -q -W --keep-going -b html docs build/docs && echo "build/docs/index.html"

deb: setup ## build/*.deb for this Debian release: pacemaker-cloud, and the agent alone (installs debhelper)
	@tools/dashboard
	@tools/deb

install: setup ## without a package: commands, units, manual pages below PREFIX (/usr/local) and DESTDIR
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" tools/install

clean: ## remove the environment and caches of this checkout
	@rm -rf .venv .tools build dist .mypy_cache .ruff_cache .pytest_cache
