# shellcheck shell=bash
# stores: fs s3
# Any OCI client works against Larder: the distribution-spec conformance suite
# passes in its strictest profile with nothing switched off, once with the
# default policy and once with sparse manifests, on repositories that allow them.
# On both stores: what is deleted from a bucket may be there for somebody else.

conformance_run() { # name [VARIABLE=value...]
  local name=$1 results=$WORK/$1 suite
  shift
  # Failed checks are read from the report, which also has those of a crash.
  env OCI_REGISTRY="$LARDER" OCI_TLS=disabled OCI_VERSION=dev OCI_RESULTS_DIR="$results" "$@" \
    conformance >"$results.out" 2>&1 || true
  [ -s "$results/junit.xml" ] || {
    tail -20 "$results.out"
    fail "conformance $name: no report"
  }
  suite=$(grep -m1 '<testsuite ' "$results/junit.xml")
  local tests failures errors skipped off
  tests=$(attribute tests "$suite")
  failures=$(attribute failures "$suite")
  errors=$(attribute errors "$suite")
  skipped=$(attribute skipped "$suite")
  off=$(grep -E '^  [A-Z].*: +Disabled$' "$results.out" | sed -E 's/\.*: +Disabled//' | sort -u || true)
  note "conformance $name: $tests checks, $failures failed, $skipped skipped, $errors errors"
  [ "$tests" -gt 900 ] || fail "conformance $name: only $tests checks ran"
  if [ "$failures/$errors/$skipped" != 0/0/0 ]; then
    bad_checks "$results/junit.xml"
    fail "conformance $name: $failures failed, $skipped skipped, $errors errors; report: $results/report.html"
  fi
  echo "$off" >"$results.off"
}

attribute() { # name element
  local value
  value=$(sed -nE "s/.* $1=\"([0-9]+)\".*/\1/p" <<<"$2")
  echo "${value:-0}"
}

# Each check that did not pass, with the suite's one-line reason.
bad_checks() { # junit.xml
  awk '
    /<testcase / {
      name = $0; sub(/.* name="/, "", name); sub(/".*/, "", name)
      status = $0; sub(/.* status="/, "", status); sub(/".*/, "", status)
    }
    /<(system-out|skipped|failure|error)[ >]/ && status != "passed" && name != shown {
      reason = $0; gsub(/<[^>]*>/, "", reason); gsub(/&#xA;/, "; ", reason); gsub(/&#34;/, "\"", reason)
      sub(/^ */, "", reason)
      print "  " status ": " name ": " substr(reason, 1, 300)
      shown = name
    }' "$1"
}

larder_start '[[repositories]]' 'pattern = "sparse/**"' 'sparse = true'

conformance_run plain
assert_eq "$(cat plain.off)" "  Sparse Manifests" "what the suite left out"

conformance_run sparse OCI_DATA_SPARSE=true OCI_REPO1=sparse/one OCI_REPO2=sparse/two
assert_eq "$(cat sparse.off)" "" "what the suite left out"
