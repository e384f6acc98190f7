PYTHON ?= python3
PORT ?= 9311
VAR ?= var
VENV := .venv
SOURCES := setup.py constraints.txt $(shell find barbtx workers twisted -name '*.py' -o -name '*.json' -o -name '*.xml' -o -name '*.mako')

# For the recipes' shells: what is in these may be a space, or anything else that make or a shell would take apart.
export VAR PORT
# Relative to VAR, where they are used: no path needs to be quoted as a URL or as an option.
SETTINGS = --set database.connection=sqlite:///barbtx.sqlite --set simple_crypto_plugin.kek_file=mkek

.PHONY: run test clean

run: $(VENV)/barbtx
	@umask 077; root=$$PWD; mkdir -p -- "$$VAR" && cd -- "$$VAR" || exit 1; \
	python="$$root/$(VENV)/bin/python"; \
	if [ ! -e mkek ]; then \
	    if [ -e barbtx.sqlite ]; then \
	        echo "$$VAR/mkek is gone: without this master key nothing in $$VAR/barbtx.sqlite can be read" >&2; exit 1; \
	    fi; \
	    "$$python" -m barbtx.cmd.manage simple_crypto gen_mkek mkek || exit 1; \
	fi; \
	set -- --config-file "$$root/config/barbtx-dev.conf" $(SETTINGS); \
	"$$python" -m barbtx.cmd.manage "$$@" db upgrade && \
	exec "$$python" "$$root/$(VENV)/bin/twistd" -n --pidfile= barbtx "$$@" --set "api.bind_port=$$PORT"

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
