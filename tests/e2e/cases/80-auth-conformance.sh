# shellcheck shell=bash
# The conformance suite passes with credentials as it does without: nothing that
# a client of registries does is lost behind tokens.

token=larder_$(head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_' | tr -d =)
hash=$(printf %s "$token" | sha256sum | cut -d' ' -f1)
larder_start '[[tokens]]' 'name = "suite"' "hash = \"sha256:$hash\"" \
  '[[rules]]' 'identity = "token:suite"' 'may = ["pull", "push", "delete"]'
assert_eq "$(curl -s -o /dev/null -w '%{http_code}' "http://$LARDER/v2/")" 401 "status without credentials"

env OCI_REGISTRY="$LARDER" OCI_TLS=disabled OCI_VERSION=dev OCI_RESULTS_DIR="$WORK/results" \
  OCI_USERNAME=suite OCI_PASSWORD="$token" conformance >conformance.out 2>&1 || true
[ -s results/junit.xml ] || {
  tail -20 conformance.out
  fail "no report"
}
suite=$(grep -m1 '<testsuite ' results/junit.xml)
attribute() { # name -> 0 where there is none
  local value
  value=$(sed -nE "s/.* $1=\"([0-9]+)\".*/\1/p" <<<"$suite")
  echo "${value:-0}"
}
note "conformance with credentials: $(attribute tests) checks, $(attribute failures) failed, $(attribute skipped) skipped"
[ "$(attribute tests)" -gt 900 ] || fail "only $(attribute tests) checks ran"
assert_eq "$(attribute failures)/$(attribute skipped)" 0/0 "failed and skipped checks"
not grep -q "$token" "$(larder_log)" || fail "the token is in the log"
