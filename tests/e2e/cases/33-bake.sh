# shellcheck shell=bash
# A monorepo's bakefile with groups, inheritance and a matrix, one cache
# reference per target, for amd64 and 386 (and arm64 where nothing is run):
# what one builder bakes is CACHED, step by step, in the bake of a fresh one.

larder_start
base_push
export REGISTRY=$LARDER BASE
cp -r "$CONTEXTS/mono" mono
cd mono

builder_start a
buildx_use a
buildx bake --print 2>/dev/null >plan.json
assert_eq "$(jq -r '[.target | keys[]] | join(" ")' plan.json)" "api assets worker-fast worker-slow" "targets of the plan"
assert_eq "$(jq -r '.target["worker-slow"].args.QUEUE' plan.json)" slow "argument of a matrix target"
assert_eq "$(jq -r '.target.api["cache-to"] | length' plan.json)" 1 "cache exports of a target"

# Both services for two platforms, the files for one.
declare -A steps=([api]=10 [worker-fast]=10 [worker-slow]=10 [assets]=2)
readonly TOTAL=32

bake a
assert_eq "$(steps_total)" $TOTAL "steps of the first bake"
builder_stop a

builder_start b
for target in "${!steps[@]}"; do
  builder_prune b
  bake b "$target"
  assert_all_cached "${steps[$target]}"
done

# All at once, BuildKit itself misses some: a step that two targets share is
# solved once, with the cache reference of the target that came first, and what
# follows it in the other target's reference is then not found. The output is
# right all the same; how many steps were CACHED differs from run to run.
builder_prune b
bake b
assert_eq "$(steps_total)" $TOTAL "steps of the second bake"
note "baked at once: $(steps_cached) of $TOTAL CACHED"

# A changed source re-runs what needs it and nothing else: the last two steps of
# the api on both platforms, and the copy of it among the assets.
echo changed >>api/api.txt
bake b api
assert_cached 6 10
bake b assets
assert_cached 1 2
