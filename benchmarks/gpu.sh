#!/bin/sh
# Everything that a graphics card is needed for; see benchmarks/gpu/__main__.py.
set -e
cd "$(dirname "$0")/.."
python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
exec "$python" -m benchmarks.gpu "$@"
