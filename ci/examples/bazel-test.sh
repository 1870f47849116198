#!/bin/sh
# Bazel's environment says the rest: shards, filters, where JUnit and results go.
set -eu
bindervm=$1 plan=$2
shift 2
# Results are always wanted in a folder of this test's own.
export TEST_UNDECLARED_OUTPUTS_DIR="${TEST_UNDECLARED_OUTPUTS_DIR:-$TEST_TMPDIR/results}"
exec "$bindervm" test "$plan" "$@"
