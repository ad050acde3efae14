# A convenience; the README's two commands need none of it.
python = .venv/bin/python

.PHONY: run test check slow pins bench reliability
run: .venv
	$(python) gateway.py
test: .venv
	$(python) -m pytest -q -n auto
check: .venv
	.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && $(python) -m pytest -q -n auto
slow: .venv
	$(python) -m pytest -q -m slow
reliability: .venv
	$(python) -m reliability
bench: .venv
	$(python) -m benchmarks
pins: .venv
	.venv/bin/pip install -q uv
	.venv/bin/uv pip compile --universal --python-version 3.11 pyproject.toml --extra test -o requirements.txt
	.venv/bin/uv pip compile --universal --python-version 3.11 pyproject.toml --extra test --extra dev -c requirements.txt -o requirements-dev.txt
	.venv/bin/uv pip compile --universal --python-version 3.11 pyproject.toml --extra postgres -c requirements.txt -o requirements-postgres.txt
	.venv/bin/uv pip compile --universal --python-version 3.11 pyproject.toml --extra redis -c requirements.txt -o requirements-redis.txt
.venv:
	python3 -m venv .venv && .venv/bin/pip install -q -r requirements-dev.txt
