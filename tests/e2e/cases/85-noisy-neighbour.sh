# shellcheck shell=bash
# Pull requests do everything at once that could stop a server: uploads and
# manifests that are never finished, room that is announced and never used, floods
# beyond its quota, configs and views that are dear to make, pages, passwords. Main
# builds meanwhile, and its export may not fail.

[ "$STORE_KIND" != fs ] || larder_own_disk 900m
issuer_start
larder_start "$(issuer_entry)" \
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/heads/main" }' 'may = ["pull", "push", "delete"]' \
  'repositories = ["{repository}/**", "library/**"]' \
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/pull/**" }' 'may = ["pull", "push", "delete"]' \
  'repositories = "{repository}/**"' 'scope = "{repository}@{ref}"' \
  '[[rules]]' 'identity = "anonymous"' 'may = ["pull"]' 'repositories = "library/**"' \
  '[scopes]' 'quota = { max = "100MiB" }'
pid=$(pid_of larder-main)
peak() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status"; }

login_of() { "$LARDER_BIN" login "http://$LARDER" --print --jwt-file <(jwt 60 "{\"repository\":\"org/app\",\"ref\":\"refs/$1\"}"); }
main=$(login_of heads/main)
login gha "$main"
base_push

ref=$LARDER/org/app/cache:latest
lines=(--export-cache "type=registry,ref=$ref,mode=max" --import-cache "type=registry,ref=$ref")
builder_start main
build main "$CONTEXTS/app" "${lines[@]}"

for attack in hold:7 work:8; do
  spawn "${attack%:*}" "$WORK/${attack%:*}.out" nice -n 19 python3 "$E2E/lib/noisy.py" "${attack%:*}" "$LARDER" "$(login_of "pull/${attack#*:}/merge")"
  eventually 90 grep -q attacking "${attack%:*}.out" || fail "the attack does not get going: $(cat "${attack%:*}.out")"
done
spawn probe "$WORK/probe.out" python3 "$E2E/lib/noisy.py" probe "$LARDER" "$main"

began=$SECONDS builds=0
while [ $((SECONDS - began)) -lt "$([ -n "$FULL" ] && echo 60 || echo 15)" ]; do
  builds=$((builds + 1))
  # One step more each time: there is always something to push, and all before it is CACHED.
  rm -rf changed
  cp -r "$CONTEXTS/app" changed
  printf 'RUN echo %s > /build\n' "$builds" >>changed/Dockerfile
  builder_prune main
  build main changed "${lines[@]}"
  assert_cached 2 3
done
for attack in hold work; do
  is_running $attack || fail "the attack has stopped: $(cat $attack.out)"
done
stop_process probe
stop_process hold
stop_process work
grep -vE ' (200|201) ' probe.out >refused || true
[ ! -s refused ] || fail "main was refused: $(head -5 refused)"
slowest() { grep "^$1 " probe.out | sort -k3 -n | tail -1 | cut -d' ' -f3; }
note "$builds builds of main beside it, all exported, all steps CACHED; $(wc -l <probe.out) requests of main, none refused, the slowest blob $(slowest blob) s, of 23 MiB $(slowest large) s, view $(slowest view) s"
note "peak memory of the server $(peak) MiB; the pull requests were answered: $(grep -hv attacking hold.out work.out | tr '\n' ';')"
