# The project's commands. A fresh machine needs make and Python 3.11 or later.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)

# Where `make run` listens and where it keeps its files.
SMTP_PORT ?= 2525
VAR ?= var

PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet
INSTALLED = .venv/.installed
INSTALLED_DEV = .venv/.installed-dev
INSTALLED_BENCH = .venv-bench/.installed

.PHONY: help venv dev run test check peers test-applications trial bench docs clean
.NOTPARALLEL:

help:
	@echo 'make run     start the relay on 127.0.0.1:$(SMTP_PORT); mail ends in $(VAR)/mail, nothing leaves the machine'
	@echo 'make test    everything that CI runs'
	@echo 'make test-applications    Buildbot, Scrapy and Synapse deliver through pymail_tx.compat; part of make test'
	@echo 'make venv    .venv with the project installed, and nothing more'
	@echo 'make bench   the benchmarks'
	@echo 'make docs    the documentation, into docs/_build/html'
	@echo 'make clean   remove what the others made, .venv included, $(VAR) excepted'

venv: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or later found. Install one, or say where it is: make PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv || { echo 'Python cannot make .venv. On Debian or Ubuntu: apt install python3-venv; then run make again.' >&2; exit 1; }
	@echo 'Installing into .venv ...'
	@$(PIP) --editable .
	@touch $@

dev: $(INSTALLED_DEV)

$(INSTALLED_DEV): $(INSTALLED)
	@echo 'Installing what the tests need into .venv ...'
	@$(PIP) --editable '.[dev]'
	@touch $@

define TRY_NEXT
A relay on 127.0.0.1:$(SMTP_PORT). Whatever it takes, it delivers into $(VAR)/mail: nothing leaves this machine.
Paste this into another terminal to send a message through it:

  python3 - <<'END'
  import smtplib
  with smtplib.SMTP("127.0.0.1", $(SMTP_PORT)) as relay:
      relay.sendmail("ann@example.org", ["bob@example.org"], b"Subject: Hello\r\n\r\nIt works.\r\n")
  END

then read it:  cat $(VAR)/mail/new/*
Go on with docs/tutorial/first-message.md. Ctrl-C stops the relay; what it has accepted is kept in $(VAR)/spool.sqlite.

endef
export TRY_NEXT

run: venv
	@mkdir -p $(VAR)
	@printf '%s\n' "$$TRY_NEXT"
	@exec .venv/bin/twistd --nodaemon --pidfile= pymail-tx --spool sqlite:$(VAR)/spool.sqlite \
		--smtp tcp:$(SMTP_PORT):interface=127.0.0.1 --route '*=maildir:$(VAR)/mail'

# Fast checks first; trial last, so that its summary is the last line.
test: dev check peers docs test-applications trial

check: dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

peers:
	tests/peers/install

test-applications: dev peers
	tests/applications/install
	.venv/bin/trial tests.applications.deliveries </dev/null

trial: dev
	.venv/bin/trial -j2 tests </dev/null

# All of them, whether or not one misses a mark.
bench: dev $(INSTALLED_BENCH)
	@status=0; for benchmark in session client dns; do \
		echo "benchmarks/$$benchmark.py"; .venv/bin/python "benchmarks/$$benchmark.py" || status=1; done; exit $$status

# The clients that ours is measured beside, in an environment of their own.
$(INSTALLED_BENCH): $(INSTALLED)
	@.venv/bin/python -m venv .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet 'aiosmtplib >= 5.1' 'uvloop >= 0.22'
	@touch $@

TWISTED_NAMES = docs/_build/twisted/objects.inv

docs: dev $(TWISTED_NAMES)
	.venv/bin/pydoctor
	.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

# What docstrings that are inherited from Twisted link to; made here, so that building the pages needs no network.
$(TWISTED_NAMES): $(INSTALLED_DEV)
	@mkdir -p $(@D)
	@cd $(@D) && ../../../.venv/bin/pydoctor --quiet --make-intersphinx --html-output=. --docformat=epytext --project-name=Twisted \
		"$$(../../../.venv/bin/python -c 'import os, twisted; print(os.path.dirname(twisted.__file__))')"

clean:
	rm -rf .venv .venv-bench .venv-applications build dist *.egg-info docs/_build .mypy_cache .ruff_cache .hypothesis _trial_temp* twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -exec rm -rf {} +
