# Every command of the repository. `make run` and `make test` begin on a bare Debian 12.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= /usr/bin/python3
PREFIX ?= /opt/virtstatd
CONFIG ?=
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --disable-pip-version-check
PAGE := http://127.0.0.1:9766/metrics
ETC := /etc/virtstatd
UNITS := /etc/systemd/system
UNIT_FILES := $(notdir $(wildcard systemd/*.service systemd/*.socket))
define INSTALL_UNITS
	for unit in $(UNIT_FILES); do
		sed 's#/opt/virtstatd#$(PREFIX)#g' "systemd/$$unit" | $(SUDO) install -m 644 /dev/stdin "$(UNITS)/$$unit"
	done
endef
COMMAND := /usr/local/bin/virtstatd
MANUAL := /usr/local/share/man

# libvirt-python has no wheels: it is compiled against the host's own libvirt.
RUN_PACKAGES := python3 python3-venv python3-dev gcc pkg-config libvirt-dev ca-certificates
# What the service needs beside them: the `kill` of its reload, and a name for its dynamic user,
# without which libvirt's client says "Failed to find user record".
INSTALL_PACKAGES := procps libnss-systemd
TEST_PACKAGES := systemd systemd-container apparmor $(INSTALL_PACKAGES) @tests/lab/support/packages.txt
MATRIX_PACKAGES := @tests/matrix/support/packages.txt

# The lab needs root. Root leaves nothing of its own behind in a user's checkout: no byte code, and
# what it writes into build/ and .pytest_cache/ becomes the user's at the end.
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/virtstatd-hypothesis
PYTEST := mkdir -p build .pytest_cache; \
	trap '$(SUDO) chown -R --reference=Makefile build .pytest_cache' EXIT; \
	$(AS_ROOT) $(BIN)/python -m pytest

# The quick ones first. Those of other releases take long and much room: CI runs them, and `make matrix`.
TESTS := $(addprefix tests/,unit contract integration system lab)
MATRIX := $(wildcard tests/matrix)

.PHONY: help
help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: run
run: $(VENV)/run.stamp  ## run the agent here, on the local hypervisor or on simulated guests
	@config='$(CONFIG)'
	if [[ -n $$config ]]; then
		echo "Configuration: $$config"
	elif [[ -S /run/libvirt/virtqemud-sock-ro || -S /run/libvirt/libvirt-sock-ro ]]; then
		echo "Guests: the local hypervisor's"
		config=config/virtstatd.toml
	else
		echo "Guests: no hypervisor here, so the built-in simulator makes some up"
		exec $(BIN)/virtstatd demo
	fi
	echo "Metrics: $(PAGE)"
	exec $(BIN)/virtstatd run --config "$$config"

.PHONY: check
check: lint types  ## the minute before a commit: lint, types and the quick unit tests; needs no root
	@$(BIN)/python -m pytest -q -n 2 -m 'not soak and not slow and not timing' tests/unit

.PHONY: test
test: $(if $(CI),matrix-packages,test-packages) $(VENV)/dev.stamp  ## everything CI runs: lint, types and all tests but the soaks
	@failed=
	$(MAKE) lint || failed+=' lint'
	$(MAKE) types || failed+=' types'
	[[ -z $$failed ]] || echo "make test: failed:$$failed; the tests run all the same" >&2
	$(PYTEST) --cov --costs=10 $(TESTS) $(if $(CI),$(MATRIX)) || failed+=' tests'
	[[ -z $$failed ]]

.PHONY: soak
soak: matrix-packages $(VENV)/dev.stamp  ## the long faults and soaks
	@$(BIN)/pip install $(PIP_OPTIONS) --group soak
	$(PYTEST) -m soak $(TESTS) $(MATRIX)

.PHONY: matrix
matrix: matrix-packages $(VENV)/dev.stamp  ## other releases of libvirt, Python and Debian
	@$(PYTEST) $(MATRIX)

.PHONY: bench
bench: test-packages $(VENV)/dev.stamp  ## the measurements: a table here, build/bench.json, README's chart
	@.ci/packages collectd-core libmicrohttpd12 libprotobuf-c1  # a tool to compare with, and what it needs
	@mkdir -p build/bench
	for file in tests/bench/[!_]*.py; do
		[[ -e $$file ]] || { echo 'No measurements in tests/bench/.'; exit 0; }
		name=$$(basename "$$file" .py)
		echo "== $$name"
		$(AS_ROOT) PYTHONPATH=tests $(BIN)/python -m "bench.$$name" "build/bench/$$name.json"
	done
	PYTHONPATH=tests $(BIN)/python -m support.bench_table build/bench

.PHONY: lint
lint: $(VENV)/dev.stamp  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/dev.stamp  ## mypy, strict
	$(BIN)/mypy

.PHONY: generated
generated: $(VENV)/dev.stamp  ## write again what is made from the code: the reference configuration, its schema, tables, alerts
	@text=$$($(BIN)/python -m virtstatd.config.text)
	printf '%s\n' "$$text" >config/virtstatd.toml
	text=$$($(BIN)/python -m virtstatd.config.schema)
	printf '%s\n' "$$text" >config/virtstatd.schema.json
	$(BIN)/python -m virtstatd.commands.reference
	$(BIN)/python -m virtstatd.commands.alerts config/prometheus/alerts.toml
	$(BIN)/python -m virtstatd.commands.dashboards config/grafana

.PHONY: dashboards
dashboards: $(VENV)/dev.stamp  ## write Grafana's dashboards again from config/grafana/*.toml
	@$(BIN)/python -m virtstatd.commands.dashboards config/grafana

.PHONY: vendor
vendor:  ## fetch the page's libraries anew, in the versions of their vendor.toml; needs npm
	@.ci/vendor

.PHONY: install
install:  ## install the service: PREFIX=/opt/virtstatd, its units and its configuration
	@umask 022
	echo '1/4 Debian packages: a compiler and the headers of libvirt, where they are missing'
	.ci/packages $(RUN_PACKAGES) $(INSTALL_PACKAGES)
	echo '2/4 The program, into $(PREFIX): libvirt-python is compiled, which takes a minute'
	$(SUDO) $(PYTHON) -m venv '$(PREFIX)'
	$(SUDO) '$(PREFIX)/bin/pip' install $(PIP_OPTIONS) --upgrade .
	echo '3/4 The configuration, into $(ETC): one that is there stays; manual pages, into $(MANUAL)'
	$(SUDO) install -d -m 755 $(ETC)
	$(SUDO) install -m 644 config/virtstatd.schema.json $(ETC)/
	[[ -e $(ETC)/virtstatd.toml ]] || $(SUDO) install -m 644 config/virtstatd.toml $(ETC)/
	$(SUDO) ln -sfn '$(PREFIX)/bin/virtstatd' $(COMMAND)
	pages=$$(mktemp -d)
	trap 'rm -r "$$pages"' EXIT
	'$(PREFIX)/bin/python' -m virtstatd.commands.manual "$$pages"
	for page in "$$pages"/*; do
		$(SUDO) install -D -m 644 -t "$(MANUAL)/man$${page##*.}" "$$page"
	done
	echo '4/4 The units, into $(UNITS): $(UNIT_FILES)'
	$(INSTALL_UNITS)
	[[ ! -d /run/systemd/system ]] || $(SUDO) systemctl daemon-reload
	echo 'Installed. Next:'
	echo '    virtstatd doctor                    what the agent can see here, and how to let it see more'
	echo '    systemctl enable --now virtstatd    start it, now and with the host'
	echo '    virtstatd status, virtstatd top     what runs and what hurts'

.PHONY: install-units
install-units:
	@$(INSTALL_UNITS)

# The build needs a network only for the wheels, whose hashes are pinned.
DEB := build/deb
RELEASE ?=
MIRROR ?=
SYSTEM_PYTHON ?=
export SYSTEM_PYTHON
ROOT = $(DEB)/root-$(RELEASE)$(SYSTEM_PYTHON:%=-system)

.PHONY: deb
deb:  ## Debian packages into build/: the agent with its libraries, and more sinks; for this release or RELEASE=trixie
	@umask 022
	if [[ -z '$(RELEASE)' ]]; then
		.ci/packages $$(systemd/debian/needed)
		exec systemd/debian/build $(DEB)
	fi
	.ci/packages $(RUN_PACKAGES) mmdebstrap
	$(SUDO) env SYSTEM_PYTHON='$(SYSTEM_PYTHON)' systemd/debian/root '$(RELEASE)' '$(ROOT)' $(MIRROR)
	$(SUDO) env SYSTEM_PYTHON='$(SYSTEM_PYTHON)' systemd/debian/build $(DEB) '$(ROOT)'

.PHONY: image
image: deb  ## build/image.tar: a container image of the packages on a minimal Debian
	@.ci/packages mmdebstrap buildah
	suite='$(RELEASE)'
	number=$$(. /etc/os-release; case "$${suite:-$$VERSION_CODENAME}" in bookworm) echo 12 ;; trixie) echo 13 ;; esac)
	$(SUDO) systemd/container/build build/image '$(MIRROR)' build/virtstatd*~deb$${number}_*.deb

.PHONY: wheelhouse
wheelhouse:  ## build/wheelhouse/: wheels with all libraries and hashes, for hosts without a package index
	@.ci/packages $(RUN_PACKAGES)
	systemd/wheelhouse build/wheelhouse

.PHONY: wheel
wheel: $(VENV)/dev.stamp  ## build/: the wheel of the agent alone
	@$(BIN)/python -m hatchling build -t wheel -d build

.PHONY: lock
lock: $(VENV)/dev.stamp  ## choose anew the versions of the libraries that the packages bring
	@systemd/debian/lock

.PHONY: sbom
sbom: run-packages  ## the bill of materials of the packages, with all licences, into build/sbom/
	@.ci/sbom build/sbom

.PHONY: uninstall
uninstall:  ## remove the service; its configuration stays
	@for unit in $(UNIT_FILES); do
		if [[ -d /run/systemd/system && -e $(UNITS)/$$unit ]]; then
			$(SUDO) systemctl disable --now "$$unit"
			$(SUDO) systemctl reset-failed "$$unit" 2>/dev/null || true
		fi
		$(SUDO) rm -f "$(UNITS)/$$unit"
	done
	$(SUDO) rm -rf $(COMMAND) '$(PREFIX)' $(MANUAL)/man?/virtstatd{.,.toml.,-fields.}[157]
	[[ ! -d /run/systemd/system ]] || $(SUDO) systemctl daemon-reload

.PHONY: clean
clean:  ## remove what the commands above have made in this folder
	@made=($(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis)
	made+=($$(find agent tests -name __pycache__) agent/virtstatd/_fast/*.so)
	rm -rf "$${made[@]}" 2>/dev/null || $(SUDO) rm -rf "$${made[@]}"

.PHONY: run-packages test-packages matrix-packages
run-packages:
	@.ci/packages $(RUN_PACKAGES)
test-packages: run-packages
	@.ci/packages $(TEST_PACKAGES)
matrix-packages: run-packages
	@.ci/packages $(TEST_PACKAGES) $(MATRIX_PACKAGES)

$(VENV)/run.stamp: pyproject.toml $(wildcard agent/virtstatd/_fast/*.[ch]) | run-packages
	@echo 'Creating $(VENV)'
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_OPTIONS) --upgrade 'pip>=25.1'  # the first that reads dependency groups
	$(BIN)/pip install $(PIP_OPTIONS) --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install $(PIP_OPTIONS) --editable . --group dev
	touch $@

.ONESHELL:
