#!/bin/sh
# Starts rq-dashboard as the Redis user REDIS_USER, whose password is in REDIS_PASSWORD_FILE.
set -eu
password=$(python -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.stdin.read().strip(), safe=""))' \
  < "$REDIS_PASSWORD_FILE")
RQ_DASHBOARD_REDIS_URL="redis://${REDIS_USER:-}:$password@$REDIS_HOST:6379/0"
export RQ_DASHBOARD_REDIS_URL
exec rq-dashboard --json --disable-delete --bind 0.0.0.0 --port 9181
