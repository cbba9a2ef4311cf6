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

out=${LARDER_ARTEFACTS:-$E2E/../../target/artefacts}/pages
base=http://$LARDER
python3 "$E2E/lib/browser.py" "$chromium" "$axe" "$out" \
  "$base/=overview" "$base/repositories=repositories" "$base/repositories?q=cache=search" \
  "$base/repo/team/shop/cache=repository" "$base/repo/team/shop/cache:main=tag" "$base/repo/$long=long-name" \
  "$base/evictions=evictions" "$base/repo/no/such=refused" >looks.txt || fail "$(cat looks.txt)"
note "$(tail -1 looks.txt)"
