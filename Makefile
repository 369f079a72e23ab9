# make demo    the main job, end to end, on the embedded synthetic cohort
# make test    the tests
# make check   ruff, mypy and the floors (import-linter)
# make bench   every claim of benchmarks/, measured against its named peer
# make sweep   fuzzing of the DICOM doors, some minutes
# make real    the three real pipelines (MEDMM_DATA=folder with picai_psa, kits19_egfr, mhh_covid)
#
# On the public index a Linux torch is the CUDA build, several gigabytes. To get the CPU build, set
# PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index (its address is on PyTorch's "Get started" page):
#     make demo PIP_EXTRA_INDEX_URL=...

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
PYTEST_ARGS ?=
export PIP_EXTRA_INDEX_URL

.PHONY: env demo test check bench real sweep clean
env: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: env
	$(BIN)/medmm demo
	@echo "first    source $(BIN)/activate   (puts the medmm and mlflow of these lines on the path)"

test: env
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python -m benchmarks

real: env
	@test -d "$(MEDMM_DATA)" || { echo "set MEDMM_DATA to the folder with picai_psa, kits19_egfr and mhh_covid"; exit 2; }
	$(BIN)/medmm train pipelines/picai_cspca --root $(MEDMM_DATA)/picai_psa
	$(BIN)/medmm train pipelines/kits19_adverse --root $(MEDMM_DATA)/kits19_egfr
	$(BIN)/medmm train pipelines/mhh_severity --root $(MEDMM_DATA)/mhh_covid

sweep: env
	$(BIN)/python -m tests.sweeps.fuzz_dicom --inputs 24000

clean:
	rm -rf .venv demo runs
