# shellcheck shell=bash
# buildkits: all with --full
# Pull requests do everything at once that could stop a server: uploads and
# manifests that are never finished, room that is announced and never used, floods
# beyond its quota, configs and views that are dear to make, pages, passwords. Main
# builds meanwhile, and its export may not fail.

issuer_start
rules=(
  "$(issuer_entry)"
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/heads/main" }' 'may = ["pull", "push", "delete"]'
  'repositories = ["{repository}/**", "library/**"]'
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/pull/**" }' 'may = ["pull", "push", "delete"]'
  'repositories = "{repository}/**"' 'scope = "{repository}@{ref}"'
  '[[rules]]' 'identity = "anonymous"' 'may = ["pull"]' 'repositories = "library/**"'
  '[scopes]' 'quota = { max = "100MiB" }'
)
[ "$STORE_KIND" != fs ] || larder_own_disk 900m
larder_start "${rules[@]}"
pid=$(pid_of larder-main)
peak() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status"; }

login_of() { # ref [host:port]
  "$LARDER_BIN" login "http://${2:-$LARDER}" --print --jwt-file <(jwt 60 "{\"repository\":\"org/app\",\"ref\":\"refs/$1\"}")
}
main=$(login_of heads/main)
login gha "$main"
base_push

ref=$LARDER/org/app/cache:latest
lines=(--export-cache "type=registry,ref=$ref,mode=max" --import-cache "type=registry,ref=$ref")
builder_start main
build main "$CONTEXTS/app" "${lines[@]}"

# By pull requests of its own each time: the quota of those before is used up.
pulls=0
attack() { # host:port: all of it, until attack_ends
  local what
  pulls=$((pulls + 2))
  # The one that has to push before it can attack comes first.
  for what in work:$((pulls + 1)) hold:$pulls; do
    rm -f "${what%:*}.out"
    spawn "${what%:*}" "$WORK/${what%:*}.out" nice -n 19 python3 "$E2E/lib/noisy.py" "${what%:*}" "$1" \
      "$(login_of "pull/${what#*:}/merge" "$1")"
    eventually 90 grep -q attacking "${what%:*}.out" || fail "the attack does not get going: $(cat "${what%:*}.out")"
  done
}
attack_ends() {
  local what
  for what in hold work; do
    is_running $what || fail "the attack has stopped: $(cat $what.out)"
  done
  stop_process hold
  stop_process work
}
# One step more each time: there is always something to push, and all before it is CACHED.
builds=0
build_once() {
  builds=$((builds + 1))
  rm -rf changed
  cp -r "$CONTEXTS/app" changed
  printf 'RUN echo %s > /build\n' "$builds" >>changed/Dockerfile
  builder_prune main
  build main changed "${lines[@]}"
  assert_cached 2 3
}
millis() { date +%s%3N; }

# The same builds on the same machine, as busy with the same clients, whose server is another one: in turns, so that
# what changes with time (the page cache, the builder's own store) changes for both.
if [ -n "$FULL" ]; then
  first=$LARDER
  INSTANCE=second
  [ "$STORE_KIND" != fs ] || larder_own_disk 900m
  larder_start "${rules[@]}"
  second=$LARDER LARDER=$first INSTANCE=''
  declare -A spent=([here]=0 [elsewhere]=0)
  beside() { # here|elsewhere host:port: 5 builds beside an attack of that server
    attack "$2"
    began=$(millis)
    for _ in $(seq 5); do build_once; done
    spent[$1]=$((spent[$1] + $(millis) - began))
    attack_ends
  }
  for _ in 1 2; do
    beside elsewhere "$second"
    beside here "$first"
    beside here "$first"
    beside elsewhere "$second"
  done
  note "20 builds: ${spent[here]} ms, and ${spent[elsewhere]} ms while the same clients attack another server"
  assert_at_most $((spent[here] * 100 / spent[elsewhere])) 150 "percent of the time beside an attack of another server"
fi

attack "$LARDER"
spawn probe "$WORK/probe.out" python3 "$E2E/lib/noisy.py" probe "$LARDER" "$main"
began=$SECONDS
while [ $((SECONDS - began)) -lt "$([ -n "$FULL" ] && echo 60 || echo 15)" ]; do build_once; done
stop_process probe
attack_ends
grep -vE ' (200|201) ' probe.out >refused || true
[ ! -s refused ] || fail "main was refused: $(head -5 refused)"
slowest() { grep "^$1 " probe.out | sort -k3 -n | tail -1 | cut -d' ' -f3; }
note "$builds builds of main beside it, all exported, all steps CACHED; $(wc -l <probe.out) requests of main, none refused, the slowest blob $(slowest blob) s, of 23 MiB $(slowest large) s, view $(slowest view) s"
note "peak memory of the server $(peak) MiB; the pull requests were answered: $(grep -hv attacking hold.out work.out | tr '\n' ';')"
