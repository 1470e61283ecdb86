# SPDX-License-Identifier: Apache-2.0
# make demo   the main job on private hosts: a guest, a flow, a live migration, a timeline
# make test   unit, fuzz, platform, integration, attack and system tests; what cannot run here is
#             skipped with its reason. KINDS="unit system": only these
# make lint   formatting, lint, types, import rules
# make fuzz   random messages, rings, reports and answers for FUZZ_SECONDS (300)
# make soak   numbered frames through many ports for MINUTES (10), and one fault after the other
# make grid   DPDK's virtio-user in each way that it can be run: 488, of which make test has some 25
# make bench               all benchmarks, beside the peers; BENCH="--quick" for a short look
# make bench-announce      from QMP announce-self to the bridge's MAC table, beside OVS-DPDK
# make bench-instructions  instructions a packet of the compiled data path
# make bench-learn         what learning from a guest's frames costs, as a share of sending them
# make bench-rings         our rings beside DPDK's, under the same front-end: ratios
# make bench-port          a whole port, guest to tap and back, beside DPDK's net_vhost and net_tap
# make bench-tap           what a frame costs on its way to a real tap: writev beside io_uring
# make bench-tcp           TCP by guests on our port, beside a veth port, OVS-DPDK and QEMU's tap
# make bench-latency       request and response through the switch, beside the peers: p50 and p99
# make bench-moves         frames lost in live migrations at 1,000 to 100,000 frames a second
# make bench-vms           from VM to VM on one bridge, per CPU second, beside OVS-DPDK and QEMU's taps
# make bench-scale         a thousand ports on one host: time, memory, wakeups, one port more
# make migration-report  QEMU guests migrate in every case of the matrix: docs/migration-report.md
# make deb    a Debian package, in build/deb: on Debian 13, or with DISTRO=trixie
# make dist   a source distribution and a wheel, in build/dist
# make man    docs/ovs-vhost.8 anew, from the parsers that --help prints
# make top-picture  docs/top.svg anew: the live view with ports that are made up
# make names  the doctor's entries anew, from the tables of docs/troubleshooting.md
# make mutants  small changes of the pure modules, each of which a test is to notice: the score of
#             each module. Hours; MUTANTS='ovs_vhost_plugin.vhost.*': only these; SAMPLE=500: so many
#             of all, drawn at random
# make setup  Debian packages (as root) and the virtual environment, which the others do as needed
# make test DISTRO=trixie   the same on another release, in a root that debootstrap makes (as root);
#             so do demo, fuzz, grid and the others. MIRROR=URL: where the machine's mirror has it not
# make clean  removes what the above made in this directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
OPENSTACK := $(VENV)/openstack/.setup
APT := apt-get -qq --yes --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120
PACKAGES := ovs_vhost_plugin/lab/platform/packages.py
DEMO ?=
TEST ?=
KINDS ?= unit fuzz platform integration attacks system
BENCH ?=
SOAK ?=
MINUTES ?= 10
REPORT ?=
MUTANTS ?=
export FUZZ_SECONDS ?= 300

# Unit tests share nothing. The others need the machine's processors, taps and time for themselves.
SPREAD_unit := --numprocesses auto --dist worksteal

# Compiled tests are kept: pytest rewrites 3,400 assertions for seconds, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE

BENCHES := bench bench-announce bench-instructions bench-latency bench-learn bench-moves bench-port \
	bench-rings bench-scale bench-tap bench-tcp bench-vms
# With DISTRO, on another release.
ANYWHERE := demo test fuzz soak grid lint man top-picture names migration-report setup packages deb dist \
	$(BENCHES)

.PHONY: $(ANYWHERE) mutants clean

ifneq ($(DISTRO),)
$(ANYWHERE):
	@$(PYTHON) -m ovs_vhost_plugin.lab.platform.distro $(DISTRO) make --no-print-directory DISTRO= PYTHON=python3 $@

else
demo: setup
	$(BIN)/ovs-vhost demo $(DEMO)

test: setup $(OPENSTACK)
	@status=0; $(foreach kind,$(KINDS),echo '--- $(kind) tests'; \
		$(BIN)/python -m pytest $(wildcard tests/$(kind) docs/$(kind)) $(SPREAD_$(kind)) $(TEST) || status=1;) \
	exit $$status

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

man: $(SETUP)
	$(BIN)/python -m ovs_vhost_plugin.manpage >docs/ovs-vhost.8

top-picture: $(SETUP)
	$(BIN)/python -m ovs_vhost_plugin.top.picture >docs/top.svg

names: $(SETUP)
	$(BIN)/python -m ovs_vhost_plugin.doctor.names docs/troubleshooting.md >.names.json
	mv .names.json ovs_vhost_plugin/doctor/names.json

fuzz: $(SETUP)
	$(BIN)/python tests/fuzz $(TEST)

soak: setup
	$(BIN)/python tests/soak --minutes $(MINUTES) $(SOAK)

grid: setup
	GRID=whole $(BIN)/python -m pytest -v tests/system/virtio/test_virtio_user_grid.py $(TEST)

# A clean tree of what git has: nothing of this checkout's other files gets into the package.
deb:
	rm -rf build/deb
	mkdir -p build/deb/source
	git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory=build/deb/source
	mv build/deb/source/etc/debian build/deb/source/debian
	@if [ "$$(id -u)" = 0 ] && { ! command -v lintian || ! (cd build/deb/source && dpkg-checkbuilddeps); } \
		>/dev/null 2>&1; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && $(APT) build-dep ./build/deb/source && $(APT) install lintian; \
	fi
	cd build/deb/source && dpkg-buildpackage --build=binary --no-sign
	lintian --fail-on error --tag-display-limit 0 build/deb/*.changes

dist: $(SETUP)
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[report]'
	$(BIN)/ovs-vhost bench --json bench.json --plot bench.svg $(BENCH)

bench-learn: $(SETUP)
	$(BIN)/python -m bench.bench_learn

bench-announce: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.switch.bench_announce $(BENCH)

bench-rings: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.rings.bench_rings $(BENCH)

bench-port: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.tap.bench_port $(BENCH)

bench-tap: $(SETUP)
	$(BIN)/python -m ovs_vhost_plugin.bench.tap.bench_tap $(BENCH)

bench-tcp: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.switch.bench_tcp $(BENCH)

bench-latency: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.switch.bench_latency $(BENCH)

bench-moves: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.switch.bench_moves $(BENCH)

bench-vms: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.switch.bench_vms $(BENCH)

bench-scale: setup
	$(BIN)/python -m ovs_vhost_plugin.bench.scale.bench_scale $(BENCH)

bench-instructions: $(SETUP)
	$(BIN)/python -m bench.bench_instructions $(BENCH)

migration-report: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[report]'
	$(BIN)/python -m bench.migration_report $(REPORT)

mutants: $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
ifneq ($(SAMPLE),)
	$(BIN)/mutmut run 'ovs_vhost_plugin.vhost.spec.*'  # any: the first run makes all that are drawn from
	$(BIN)/mutmut run $$($(BIN)/python -m bench.mutation_sample $(SAMPLE))
else
	$(BIN)/mutmut run $(MUTANTS)
endif
	$(BIN)/python -m bench.mutation_score

setup: packages $(SETUP)

# Only root can install; for others, tests and demo say what they miss.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(PYTHON) $(PACKAGES) install; \
	fi

$(SETUP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

# Apart from all else: tests/openstack.txt says why.
$(OPENSTACK): tests/openstack.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(@D) --requirement $<
	@touch $@

# Debian splits venv from Python; ensurepip is the part that is missing then.
$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] || { echo 'missing: python3-venv; as root: apt-get install python3-venv' >&2; exit 1; }; \
		apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends python3-venv >&2; }
	$(PYTHON) -m venv $(VENV)

endif

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
