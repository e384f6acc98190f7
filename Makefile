PYTHON ?= python3
PORT ?= 9311
VAR ?= var
VENV := .venv
SOURCES := setup.py constraints.txt $(shell find barbtx workers twisted -name '*.py' -o -name '*.json' -o -name '*.xml' -o -name '*.mako')

SETTINGS = --set database.connection=sqlite:///$(abspath $(VAR))/barbtx.sqlite \
           --set simple_crypto_plugin.kek_file=$(abspath $(VAR))/mkek

.PHONY: run test clean

run: $(VENV)/barbtx
	@umask 077 && mkdir -p "$(VAR)"
	@if [ ! -e "$(VAR)/mkek" ]; then \
	    if [ -e "$(VAR)/barbtx.sqlite" ]; then \
	        echo "$(VAR)/mkek is gone: without this master key nothing in $(VAR)/barbtx.sqlite can be read" >&2; exit 1; \
	    fi; \
	    $(VENV)/bin/barbtx-manage simple_crypto gen_mkek "$(abspath $(VAR))/mkek"; \
	fi
	@umask 077 && $(VENV)/bin/barbtx-manage $(SETTINGS) db upgrade
	@umask 077 && exec $(VENV)/bin/twistd -n --pidfile= barbtx --config-file config/barbtx-dev.conf $(SETTINGS) \
	    --set api.bind_port=$(PORT)

test: $(VENV)/tox
	$(PYTHON) tests/support/programs.py
	$(VENV)/bin/tox

clean:
	rm -rf $(VENV) .tox build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo "Python's venv module is missing; it is in Debian's package python3-venv"; \
	    [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/barbtx: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt .
	@touch $@

$(VENV)/tox: $(VENV)/bin/python constraints.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt tox
	@touch $@
