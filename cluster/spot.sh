#!/usr/bin/env bash
# Watch for the notice that the cloud takes this machine back, and let its trials keep their state.
#
# AWS gives two minutes. Ray is told to start nothing more here; the trials' processes get SIGTERM, on which a
# distillation writes its state to the store and ends, and goes on from there on another machine. `spot.sh now` does so
# at once, as the preStop hook of a Kubernetes pod.
set -uo pipefail
metadata=${RAYDD_METADATA:-http://169.254.169.254}

notice() {
  local token
  token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
  curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
}

if [ "${1:-watch}" != now ]; then
  until notice; do sleep 5; done
  echo
fi
ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'spot notice' --deadline-remaining-seconds 100 ||
  true # an older Ray
pkill -TERM -f '^ray::' || true
