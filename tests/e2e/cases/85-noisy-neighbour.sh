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

attack() { # host:port: all of it, until attack_ends
  local what
  for what in hold:7 work:8; do
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

# The same machine, as busy with the same clients, whose server is another one.
elsewhere=''
if [ -n "$FULL" ]; then
  first=$LARDER
  INSTANCE=second
  [ "$STORE_KIND" != fs ] || larder_own_disk 900m
  larder_start "${rules[@]}"
  second=$LARDER LARDER=$first INSTANCE=''
  attack "$second"
  began=$(millis)
  for _ in $(seq 20); do build_once; done
  elsewhere=$(($(millis) - began))
  attack_ends
fi

attack "$LARDER"
spawn probe "$WORK/probe.out" python3 "$E2E/lib/noisy.py" probe "$LARDER" "$main"
if [ -n "$FULL" ]; then
  began=$(millis)
  for _ in $(seq 20); do build_once; done
  here=$(($(millis) - began))
  note "20 builds: $here ms, and $elsewhere ms while the same clients attack another server"
  assert_at_most $((here * 100 / elsewhere)) 150 "percent of the time beside an attack of another server"
fi
began=$SECONDS
while [ $((SECONDS - began)) -lt "$([ -n "$FULL" ] && echo 60 || echo 15)" ]; do build_once; done
stop_process probe
attack_ends
grep -vE ' (200|201) ' probe.out >refused || true
[ ! -s refused ] || fail "main was refused: $(head -5 refused)"
slowest() { grep "^$1 " probe.out | sort -k3 -n | tail -1 | cut -d' ' -f3; }
note "$builds builds of main beside it, all exported, all steps CACHED; $(wc -l <probe.out) requests of main, none refused, the slowest blob $(slowest blob) s, of 23 MiB $(slowest large) s, view $(slowest view) s"
note "peak memory of the server $(peak) MiB; the pull requests were answered: $(grep -hv attacking hold.out work.out | tr '\n' ';')"
