# shellcheck shell=bash
# stores: fs
# The pages as a browser shows them, after real builds: at the width of a phone
# and of a desk, light and dark, nothing is wider than the screen, the browser
# has nothing to complain of, and axe finds nothing serious. The screenshots go
# to LARDER_ARTEFACTS (default: target/artefacts).

chromium=$(command -v chromium || command -v chromium-browser || true)
axe=${LARDER_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/larder/tools}/share/axe.js
[ -n "$chromium" ] && [ -e "$axe" ] || fail "no chromium, or no axe: tests/e2e/tools/install brings both"

# Tags that a rule lets go, so that there are evictions to see: when the case collects, not a minute after the start.
larder_start '[collect]' 'enabled = false' 'grace = "4s"' 'lease = "4s"' 'short_spans = true' \
  '[[repositories]]' 'pattern = "old/**"' 'retain = [{ tags = "*", newest = 1 }]'
out=${LARDER_ARTEFACTS:-$E2E/../../target/artefacts}/pages
look() { # pages: URL=NAME
  python3 "$E2E/lib/browser.py" "$chromium" "$axe" "$out" "$@" >looks.txt || fail "$(cat looks.txt)"
  note "$(tail -1 looks.txt)"
}
look "http://$LARDER/=overview-empty"
base_push
ref=$LARDER/team/shop/cache:main
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")
builder_start a
build a "$CONTEXTS/chain" "${to[@]}"
builder_start b
build b "$CONTEXTS/chain" "${from[@]}" "${to[@]}"
cp -r "$CONTEXTS/diamond" .
for tag in one two three; do
  crane copy --insecure "$BASE" "$LARDER/old/images:$tag" >/dev/null
done
# A name as long as they come, which must not push anything off the screen.
long=$(printf 'a-very-long-name/%.0s' {1..9})end
crane copy --insecure "$BASE" "$LARDER/$long:$(printf 'x%.0s' {1..100})" >/dev/null
env "${without[@]}" "$LARDER_BIN" gc --config "$(larder_dir)/larder.toml" >gc.txt
grep -q 'not among the newest 1' gc.txt || fail "the rule let nothing go: $(cat gc.txt)"

overview=$(curl -fsS "http://$LARDER/api/overview")
jq -e '[.events[].deed] | contains(["import", "export"])' <<<"$overview" >/dev/null ||
  fail "import and export are not on the first page: $(jq -c .events <<<"$overview")"
jq -e 'any(.events[]; .deed == "export" and .seconds > 0)' <<<"$overview" >/dev/null ||
  fail "no export has a duration: $(jq -c .events <<<"$overview")"
jq -e '.evictions | length >= 2' <<<"$overview" >/dev/null || fail "no evictions are shown"

base=http://$LARDER
look "$base/=overview" "$base/repositories=repositories" "$base/repositories?q=cache=search" \
  "$base/repo/team/shop/cache=repository" "$base/repo/team/shop/cache:main=tag" "$base/repo/$long=long-name" \
  "$base/repo/old/images:three=image" "$base/evictions=evictions" "$base/repo/no/such=refused"

# A quota that is full, and a pull request that has a scope.
larder=$LARDER
mapfile -t token < <("$LARDER_BIN" token new pr)
secret=$(printf '%s\n' "${token[@]}" | sed -n 's/^  \(larder_.*\)/\1/p')
mapfile -t token < <(printf '%s\n' "${token[@]}" | sed -n '/\[\[tokens\]\]/,$p')
INSTANCE=full larder_start "${token[@]}" '[[rules]]' 'identity = "anonymous"' 'may = ["pull", "push", "admin"]' \
  '[[rules]]' 'identity = "token:pr"' 'may = ["pull", "push"]' 'scope = "pull-requests"' \
  '[[tenants]]' 'name = "default"' 'quota = { max = "10MB" }'
head -c 4500000 /dev/urandom >payload
tar -cf layer.tar payload
crane append --oci-empty-base -f layer.tar -t "$LARDER/app:1" >/dev/null 2>&1
crane auth login "$LARDER" -u any -p "$secret" >/dev/null 2>&1
crane append --oci-empty-base -f layer.tar -t "$LARDER/app:2" >/dev/null 2>&1
crane auth logout "$LARDER" >/dev/null 2>&1
head -c 4900000 /dev/urandom >payload
tar -cf layer.tar payload
crane append --oci-empty-base -f layer.tar -t "$LARDER/app:3" >/dev/null 2>&1
env "${without[@]}" "$LARDER_BIN" gc --config "$WORK/larder/full/larder.toml" >gc.txt 2>&1
grep -q 'has to free' gc.txt || fail "gc does not say that the tenant is full: $(cat gc.txt)"
look "http://$LARDER/=quota-full" "http://$LARDER/scopes=scopes"
LARDER=$larder
