# shellcheck shell=bash
# buildkits: all with --full
# Real builds as each kind of identity: a user of an htpasswd file, a JWT of an
# issuer that changes its keys, a JWT that is long over when the build exports,
# and a client certificate.

# htpasswd -nbB builder 'correct horse'
printf '%s\n' 'builder:$2b$10$A7DlRbvm6zrSKP3Oa2gb/.Hpo46FyC5CptZcdMY6BsO.TUWn/YTye' >users
# The CA signs both sides.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
  -keyout ca.key -out ca.pem 2>/dev/null
certificate() { # name
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -out "$1.pem" \
    -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:$1") 2>/dev/null
}
certificate server
certificate builder-1
certificate laptop

issuer_start
WITH_TLS=1
larder_start "$(issuer_entry)" '[auth]' "htpasswd = \"$WORK/users\"" \
  '[tls]' "cert = \"$WORK/server.pem\"" "key = \"$WORK/server.key\"" "client_ca = \"$WORK/ca.pem\"" \
  '[[rules]]' 'identity = ["user:builder", "cert:builder-*"]' 'may = ["pull", "push"]' \
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/heads/main" }' 'may = ["pull", "push"]' \
  '[[rules]]' 'identity = "anonymous"' 'may = ["pull"]' 'repositories = "library/**"'
login builder 'correct horse'
base_push

exports_and_imports() { # host:port name
  mapfile -t to < <(cache_to "$1/cache/$2:latest" mode=max)
  mapfile -t from < <(cache_from "$1/cache/$2:latest")
  builder_start "$2"
  build "$2" "$CONTEXTS/chain" "${to[@]}"
  builder_prune "$2"
  build "$2" "$CONTEXTS/chain" "${from[@]}"
  assert_all_cached 4
  builder_stop "$2"
  note "$2: exported, imported, 4 of 4 steps CACHED"
}

exports_and_imports "$LARDER" htpasswd
login builder wrong
builder_start wrong
if build wrong "$CONTEXTS/chain" "${to[@]}" >wrong.out 2>&1; then fail "a wrong password was taken"; fi
builder_stop wrong

main='{"ref":"refs/heads/main"}'
login gha "$(jwt 600 "$main")"
exports_and_imports "$LARDER" jwt
issuer_rotate second
sleep 1 # the cool-down of the configuration
login gha "$(jwt 600 "$main")"
exports_and_imports "$LARDER" jwt-rotated

# What a builder says whose JWT is over.
login gha "$(jwt -5 "$main")"
builder_start expired
if build expired "$CONTEXTS/chain" "${to[@]}" >expired.out 2>&1; then fail "an expired JWT was taken"; fi
cat expired.out
grep -q 'has expired' expired.out "$BUILD_LOG" || fail "the build does not say that the token has expired"
login gha "$(jwt 600 '{"ref":"refs/pull/1/merge"}')"
if build expired "$CONTEXTS/chain" "${to[@]}" >refused.out 2>&1; then fail "a branch that may not push did"; fi
# It asks for what is there before it pushes.
grep -qE 'may not (pull from|push to) cache' refused.out "$BUILD_LOG" || fail "the build does not say why it may not push"
builder_stop expired

# A JWT of ten seconds, exchanged at once; the build's export begins when it has been over for long.
rm "$DOCKER_CONFIG/config.json"
short=$(jwt 10 "$main")
began=$SECONDS
SHORT=$short "$LARDER_BIN" login "http://$LARDER" --jwt-env SHORT
mkdir slow
printf 'ARG BASE\nFROM ${BASE}\nRUN sleep 31 && echo done > /made\n' >slow/Dockerfile
builder_start slow
build slow slow --export-cache "type=registry,ref=$LARDER/cache/slow:latest,mode=max"
[ $((SECONDS - began)) -ge 30 ] || fail "the build was too quick to show anything"
builder_prune slow
build slow slow --import-cache "type=registry,ref=$LARDER/cache/slow:latest"
assert_all_cached 1
note "a JWT of 10 s, exchanged: exported after $((SECONDS - began)) s"
login gha "$short"
if build slow slow --export-cache "type=registry,ref=$LARDER/cache/slow:latest" >short.out 2>&1; then
  fail "a JWT that is over was taken"
fi
builder_stop slow

# buildx, with what docker keeps.
login builder 'correct horse'
builder_start x
buildx_use x
for want in first second; do
  buildx build --progress rawjson --build-arg BASE="$BASE" \
    --cache-to "type=registry,ref=$LARDER/cache/buildx:latest,mode=max" \
    --cache-from "type=registry,ref=$LARDER/cache/buildx:latest" "$CONTEXTS/chain" 2>"$want.json"
  builder_prune x
done
BUILD_LOG=second.json
assert_all_cached 4
builder_stop x
note "buildx with docker's configuration: 4 of 4 steps CACHED"

# No login at all: the certificate is who it is.
echo '{}' >"$DOCKER_CONFIG/config.json"
with_certificate() { # name
  BUILDER_TOML="[registry.\"$SECURE\"]
  http = false
  ca = [\"$WORK/ca.pem\"]
  [[registry.\"$SECURE\".keypair]]
    key = \"$WORK/$1.key\"
    cert = \"$WORK/$1.pem\""
}
with_certificate builder-1
exports_and_imports "$SECURE" mtls
with_certificate laptop
builder_start laptop
if build laptop "$CONTEXTS/chain" "${to[@]}" >laptop.out 2>&1; then fail "another certificate was taken"; fi
grep -qE 'cert:laptop may not (pull from|push to) cache' laptop.out "$BUILD_LOG" || fail "the build does not say why it may not push"
builder_stop laptop
not grep -qF -e 'correct horse' -e "$short" "$(larder_log)" || fail "a secret is in the log"
