# shellcheck shell=bash
# buildkits: all with --full
# Two machines ran the same step with different results and pushed to one
# reference. A third build that brings one of the two results as a source must
# get back what it brought, whatever order the pushes came in.
#
# The last part is the test of this test: a union that simply throws all links
# together hands out the other machine's file.

larder_start '[[repositories]]' 'pattern = "plain/**"' 'views = false'
base_push
builder_start a
builder_start b
builder_start c

mkdir -p own-a own-b
build_hazard() { # builder ref
  mapfile -t to < <(cache_to "$2" mode=max)
  build "$1" "$CONTEXTS/hazard" "${to[@]}" --output "type=local,dest=own-$1"
}

# What a third build makes of the file that builder a made.
third_build() { # ref -> the file it got
  rm -rf third got
  cp -r "$CONTEXTS/hazard-third" third
  # The mode counts in a content's checksum: that of the file in the image.
  install -m 644 own-a/out third/out
  mapfile -t from < <(cache_from "$1")
  builder_prune c
  build c third "${from[@]}" --output type=local,dest=got >&2
  # Its only step copies what a step of the pushed builds copied too, so both of
  # its names are in the cache; a miss would give the right file and prove nothing.
  assert_all_cached 2 >&2
  cat got/out
}

build_hazard a "$LARDER/plain/hazard:a"
build_hazard b "$LARDER/plain/hazard:b"
cmp -s own-a/out own-b/out && fail "both builders made the same random file"

# Unchanged builds, pushed again: only the order differs.
build_hazard a "$LARDER/cache/hazard:ab"
build_hazard b "$LARDER/cache/hazard:ab"
build_hazard b "$LARDER/cache/hazard:ba"
build_hazard a "$LARDER/cache/hazard:ba"

for order in ab ba; do
  assert_eq "$(third_build "$LARDER/cache/hazard:$order")" "$(cat own-a/out)" "file of the third build, pushes in order $order"
done

# The naive union: records with the same digest and number of inputs are one,
# with all links, and the newest result.
for builder in a b; do
  manifest_of "$LARDER/plain/hazard:$builder" >"$builder.mf"
  config_of "$LARDER/plain/hazard:$builder" >"$builder.cfg"
done
jq -c -n --slurpfile a a.cfg --slurpfile b b.cfg '
  def shifted(cfg; l; r):
    (cfg.layers | map(.parent //= 0 | if .parent >= 0 then .parent += l else . end)) as $layers
    | (cfg.records | map(
        (if .layers then .layers |= map(.layer += l) else . end)
        | (if .inputs then .inputs |= map(map(.link += r)) else . end))) as $records
    | {layers: $layers, records: $records};
  shifted($a[0]; 0; 0) as $one
  | shifted($b[0]; ($one.layers | length); ($one.records | length)) as $two
  | ($one.records + $two.records) as $all
  | ($all | map([.digest, (.inputs // [] | length)])) as $keys
  | ($keys | map(. as $key | $keys | index([$key]))) as $first
  | [range($all | length) | select($first[.] == .)] as $kept
  | {layers: ($one.layers + $two.layers),
     records: [$kept[] as $i
       | [range($all | length) | select($first[.] == $i)] as $same
       | $all[$i]
       | if .inputs then .inputs = [range(.inputs | length) as $n
             | [$same[] as $s | $all[$s].inputs[$n][] | .link = ($first[.link] as $f | $kept | index($f))] | unique]
         else . end
       | ([$same[] as $s | $all[$s].layers[]?] | max_by(.createdAt)) as $newest
       | if $newest then .layers = [$newest] else . end]}' | tr -d '\n' >naive.cfg
jq -c --slurpfile b b.mf '.layers += $b[0].layers | .layers |= unique_by(.digest)' a.mf | tr -d '\n' >naive.mf
put_cache "$LARDER/plain/hazard:naive" naive.mf naive.cfg
assert_eq "$(third_build "$LARDER/plain/hazard:naive")" "$(cat own-b/out)" "file of the third build from a naive union (it must be the wrong one, or this case tests nothing)"
