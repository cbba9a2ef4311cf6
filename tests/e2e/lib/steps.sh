# shellcheck shell=bash
# Counts the steps of a build from BuildKit's raw progress.
#
# A step is a vertex that stands for one instruction of the Dockerfile: its name
# starts with "[… n/m] ". FROM is left out because it is resolved, not built, and
# internal vertices (loading the context, exporting) have no n/m.
# A step is reported many times; it was cached when any report says so. Steps are
# told apart by name: stage, platform and number make it unique in a build, and a
# bake puts the target in front. The digest of the vertex would count a step twice
# that was merged with the same step of a target built at the same time.

build_steps() { # -> one line a step: "CACHED name" or "RAN name"
  jq -rR 'fromjson? | .vertexes[]?
      | select(.name | test("^\\[([^\\]]* )?[0-9]+/[0-9]+\\] (?!FROM )"))
      | [.name, (.cached // false)] | @json' "$BUILD_LOG" |
    jq -rs 'group_by(.[0])[] | (if any(.[1]) then "CACHED " else "RAN " end) + .[0][0]'
}

build_errors() {
  grep -v '^{' "$BUILD_LOG" | tail -20 || true
  jq -rR 'fromjson? | .vertexes[]? | select(.error) | "\(.name): \(.error)"' "$BUILD_LOG" | tail -20
}

steps_total() { build_steps | wc -l; }
steps_cached() { build_steps | grep -c '^CACHED ' || true; }

assert_cached() { # cached total
  local cached total
  cached=$(steps_cached)
  total=$(steps_total)
  if [ "$cached/$total" != "$1/$2" ]; then
    build_steps
    import_errors
    fail "$cached of $total steps CACHED, wanted $1 of $2"
  fi
}

# Total is given as well: a build in which nothing was counted would pass otherwise.
assert_all_cached() { assert_cached "$1" "$1"; } # total

import_errors() {
  jq -rR 'fromjson? | .vertexes[]? | select(.error) | "  \(.name): \(.error)"' "$BUILD_LOG" | sort -u
}
