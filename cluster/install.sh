#!/usr/bin/env bash
# Install raydd on a node: `install.sh head` or `install.sh worker`. A command of the cluster files.
#
# It goes beside the Ray that is there, in an image or in an environment that raydd.env puts on PATH; a machine without
# Ray gets an environment of its own, ~/raydd-venv. Ray and torch stay as they are. The head notes its versions in
# ~/raydd-versions.txt, which Ray copies to the workers, so that a worker that joins next month installs the same.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
versions=$HOME/raydd-versions.txt

if ! grep -qs '# raydd$' ~/.bashrc; then # what every later command and every Ray process of this node starts with
  echo 'set -a; PATH=$HOME/raydd-venv/bin:$PATH; [ -f ~/raydd.env ] && . ~/raydd.env; set +a # raydd' >>~/.bashrc
fi
PATH=$HOME/raydd-venv/bin:$PATH
set -a
[ ! -f ~/raydd.env ] || . ~/raydd.env
set +a

if ! python -c 'import ray' 2>/dev/null; then
  python3 -m venv ~/raydd-venv
fi
kept=$(mktemp)
trap 'rm -f "$kept"' EXIT
python -m pip freeze --quiet | grep -E '^(ray|torch|torchvision)==' >"$kept" || true
if [ "$1" = worker ] && [ -s "$versions" ]; then
  cp "$versions" "$kept"
fi
python -m pip install --quiet --constraint "$kept" "$project[demo,cluster]"
if [ "$1" = head ]; then
  python -m pip freeze --quiet | grep -E '^[A-Za-z0-9_.-]+==' | grep -v '^raydd==' >"$versions"
fi
python - <<'CHECK'
import ray, raydd
print(f"raydd {raydd.__version__} beside Ray {ray.__version__}")
CHECK
