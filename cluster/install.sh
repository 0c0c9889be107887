#!/usr/bin/env bash
# Install raydd on a node: `install.sh head`, `install.sh worker`, or `install.sh image` while an image is built.
#
# If Ray is installed, in an image or in an environment that raydd.env puts on PATH, raydd is installed into the same
# environment. A machine without Ray gets a new environment, ~/raydd-venv. Installed versions of Ray and torch are kept.
# The head writes its package versions to ~/raydd-versions.txt, which Ray copies to the workers, so that a worker that
# joins next month installs the same versions.
set -euo pipefail
role=$1
project=$(cd "$(dirname "$0")/.." && pwd)
versions=$HOME/raydd-versions.txt
export PATH=$HOME/raydd-venv/bin:$PATH

if [ "$role" != image ]; then # the environment of every later command and every Ray process of this node
  line="set -a; PATH=\$HOME/raydd-venv/bin:\$PATH; . $project/cluster/raydd.env; set +a # raydd"
  grep -qsxF "$line" ~/.bashrc || echo "$line" >>~/.bashrc
  ln -sf "$project/cluster/sweep.yaml" ~/sweep.yaml # next to the script that `ray submit` copies to ~
  if ! [ -f "$project/cluster/raydd.env" ]; then
    echo "cluster/raydd.env is missing. Copy cluster/raydd.env.example to it and fill it in." >&2
    exit 1
  fi
  set -a
  . "$project/cluster/raydd.env"
  set +a
fi

if ! python -c 'import ray' 2>/dev/null; then
  python3 -m venv ~/raydd-venv
fi
kept=$(mktemp)
trap 'rm -f "$kept"' EXIT
if [ "$role" = worker ] && [ -s "$versions" ]; then
  cp "$versions" "$kept"
else
  python -m pip freeze --quiet | grep -E '^(ray|torch|torchvision)==' >"$kept" || true
fi
python -m pip install --quiet --constraint "$kept" "$project[demo,cluster]"
if [ "$role" = head ]; then
  python -m pip freeze --quiet | grep -E '^[A-Za-z0-9_.-]+==' | grep -v '^raydd==' >"$versions"
fi
python -c 'import ray, raydd; print(f"raydd {raydd.__version__} with Ray {ray.__version__}")'
