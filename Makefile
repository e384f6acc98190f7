PYTHON ?= python3
PORT ?= 9311
VAR ?= var
VENV := .venv
SOURCES := pyproject.toml setup.py constraints.txt $(shell find barbtx workers twisted -name '*.py' -o -name '*.json' -o -name '*.xml' -o -name '*.mako')

# Recipes read these from the environment: they may contain spaces and anything else that make or a shell would split.
export VAR PORT
# Paths are relative to VAR, where the commands run, so that none needs to be quoted in a URL or an option.
SETTINGS = --set database.connection=sqlite:///barbtx.sqlite --set simple_crypto_plugin.kek_file=mkek

.PHONY: run test docs clean

run: $(VENV)/barbtx
	@umask 077; root=$$PWD; mkdir -p -- "$$VAR" && cd -- "$$VAR" || exit 1; \
	python="$$root/$(VENV)/bin/python"; \
	if [ ! -e mkek ]; then \
	    if [ -e barbtx.sqlite ]; then \
	        echo "$$VAR/mkek is missing: without this master key no payload in $$VAR/barbtx.sqlite can be read" >&2; exit 1; \
	    fi; \
	    "$$python" -m barbtx.cmd.manage simple_crypto gen_mkek mkek || exit 1; \
	fi; \
	set -- --config-file "$$root/config/barbtx-dev.conf" $(SETTINGS); \
	"$$python" -m barbtx.cmd.manage "$$@" db upgrade && \
	exec "$$python" "$$root/$(VENV)/bin/twistd" -n --pidfile= barbtx "$$@" --set "api.bind_port=$$PORT"

test: $(VENV)/tox
	$(PYTHON) tests/support/programs.py
	$(VENV)/bin/tox

docs: $(VENV)/tox
	$(VENV)/bin/tox -e docs

clean:
	rm -rf $(VENV) .tox build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo "Python's venv module is missing: apt-get install python3-venv"; \
	    [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/barbtx: $(VENV)/bin/python $(SOURCES)
	rm -rf build/lib build/bdist.*  # setuptools would install modules from here that have been deleted since
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt .
	@touch $@

$(VENV)/tox: $(VENV)/bin/python constraints.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt tox
	@touch $@
