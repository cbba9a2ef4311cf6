# shellcheck shell=bash
# stores: s3
# The tests that need a real S3 server, among them the fault run: pushes and pulls
# while calls to the bucket fail, stall, are cut short and damaged at random.
# --full is the long one.

s3_start
seeds=${FULL:+10}
operations=${FULL:+2000}
export IT_S3_ENDPOINT=http://$S3 IT_S3_BUCKET=$S3_BUCKET AWS_ACCESS_KEY_ID=$S3_KEY AWS_SECRET_ACCESS_KEY=$S3_SECRET
export FAULT_SEEDS=${seeds:-2} FAULT_OPERATIONS=${operations:-200}
cd "$E2E/../.."
cargo test --quiet --test it -- --nocapture fault:: objects::s3:: over_s3:: >"$WORK/tests.log" 2>&1 || {
  tail -60 "$WORK/tests.log"
  fail "tests over a real bucket failed"
}
note "$(grep -h '^test result' "$WORK/tests.log")"
# The dots of other tests may stand before it on its line.
grep -ho 'seed [0-9]*: .*' "$WORK/tests.log" | while read -r line; do note "$line"; done
