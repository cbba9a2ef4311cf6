# shellcheck shell=bash
# buildkits: all with --full
# Two machines that build different targets of one Dockerfile push to one
# reference. Whoever imports it has every target CACHED, every time: BuildKit
# reads the records in a random order, so this is repeated.

larder_start
base_push
rounds=${FULL:+20}
rounds=${rounds:-3}
builder_start a
builder_start b
builder_start c

push() { # builder context target
  mapfile -t to < <(cache_to "$LARDER/cache/$2:shared" mode=max)
  build "$1" "$CONTEXTS/$2" "${to[@]}" --opt target="$3"
}

pull() { # context target steps
  mapfile -t from < <(cache_from "$LARDER/cache/$1:shared")
  builder_prune c
  build c "$CONTEXTS/$1" "${from[@]}" --opt target="$2"
  assert_all_cached "$3"
}

push a services server
push b services web
push a services art
for target in t1 t2 t3; do push a diamond $target; done
for target in t4 t5 t6; do push b diamond $target; done

for ((round = 1; round <= rounds; round++)); do
  pull services server 6
  pull services web 9
  pull services art 9
  for target in t1 t2 t3 t4 t5 t6; do pull diamond $target 6; done
done
note "9 targets from two builders, $rounds times: every step CACHED"
