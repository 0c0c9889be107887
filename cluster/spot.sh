#!/usr/bin/env bash
# Watch for the notice that the cloud takes this machine back, and let its trials write their checkpoints.
#
# AWS gives two minutes. The trials' processes get SIGTERM, on which a distillation writes its state to the store and
# ends; Ray starts it again elsewhere, where it goes on from there. `spot.sh now` does so at once, as a preStop hook.
set -uo pipefail
metadata=${RAYDD_METADATA:-http://169.254.169.254}

notice() {
  local token
  token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
  curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
}

if [ "${1:-watch}" != now ]; then
  until notice; do sleep 5; done
fi
pkill -TERM -f '^ray::' || true
