# shellcheck shell=bash
# One pull request does everything at once that could stop a server: uploads and
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

spawn noise "$WORK/noise.out" nice -n 19 python3 "$E2E/lib/noisy.py" attack "$LARDER" "$(login_of pull/7/merge)"
eventually 60 grep -q attacking noise.out || fail "the pull request does not get going"
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
is_running noise || fail "the pull request has stopped: $(cat noise.out)"
stop_process probe
stop_process noise
grep -vE ' (200|201) ' probe.out >refused || true
[ ! -s refused ] || fail "main was refused: $(head -5 refused)"
slowest() { grep "^$1 " probe.out | sort -k3 -n | tail -1 | cut -d' ' -f3; }
note "$builds builds of main beside it, all exported, all steps CACHED; $(wc -l <probe.out) requests of main, none refused, the slowest blob $(slowest blob) s, of 23 MiB $(slowest large) s, view $(slowest view) s"
note "peak memory of the server $(peak) MiB; the pull request was answered: $(grep -v attacking noise.out | tr '\n' ';')"
