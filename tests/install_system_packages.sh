#!/bin/sh
# The programs that some tests need besides Python: bindfs (stale file system caches), faketime (skewed clocks), strace
# (counting system calls) and jq (a second opinion about JSON). Needs root on Debian or Ubuntu; elsewhere those tests
# are skipped with one line each.
set -eu
missing=""
for program in bindfs faketime strace jq; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed:$missing; the tests that need them are skipped"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
# shellcheck disable=SC2086
apt-get install -y -qq $missing >/dev/null
