# shellcheck shell=bash
# stores: fs
# The first day after the first build: TLS and a token, by the lines that the server
# prints; a quota that is full; retention that is tried before it is configured; the
# mistakes that a newcomer makes, each with the sentence that helps.

guide_path
larder_start
base_push
seeded=$LARDER

# A server with TLS and rules, whose lines are pasted. THIS_HOST and the CA are what a reader fills in.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=larder \
  -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out ca.pem 2>/dev/null
port=$(free_port)
larder token new ci >ci.txt
{
  printf '[server]\nlisten = ["0.0.0.0:%s"]\n[tls]\ncert = "%s"\nkey = "%s"\n' "$port" "$WORK/ca.pem" "$WORK/key.pem"
  printf '[store]\npath = "%s"\n[[rules]]\nidentity = "token:ci"\nmay = ["pull", "push", "admin"]\n' "$WORK/tls-store"
  sed -n '/\[\[tokens\]\]/,$p' ci.txt
} >tls.toml
larder config check --config tls.toml
spawn larder-tls tls.log env "${without[@]}" "$LARDER_BIN" serve --config tls.toml
eventually 60 grep -q 'docker buildx build' tls.log || fail "the server prints no lines: $(cat tls.log)"
! grep -q '127\.0\.0\.1\|http = true' tls.log || fail "lines that cannot work with TLS: $(cat tls.log)"
sed "s/THIS_HOST/localhost/g; s|/path/to/ca.pem|$WORK/ca.pem|g" tls.log >lines
mkdir -p paste docker
printf 'FROM %s/library/base:latest\nRUN echo one > /one\nRUN echo two > /two\n' "$seeded" >paste/Dockerfile
secret=$(sed -n 's/^  \(larder_.*\)/\1/p' ci.txt)
grep -qF "docker login localhost:$port" lines || fail "the server does not say that credentials are needed"
printf '{"auths":{"localhost:%s":{"auth":"%s"}}}' "$port" "$(printf 'any:%s' "$secret" | base64 -w0)" >docker/config.json
(cd paste && bash -euo pipefail <(sed -n 's/^ *\(printf .*buildkitd\.toml\).*/\1/p' ../lines))
BUILDER_TOML=$(cat paste/buildkitd.toml)
builder_start tls
buildx_use tls
# The client asks for tokens itself: where it runs, the CA must be known, too.
for _ in 1 2; do
  builder_prune tls
  (cd paste && DOCKER_CONFIG=$WORK/docker SSL_CERT_FILE=$WORK/ca.pem bash -euo pipefail <(sed -n 's/^ *\(docker buildx build .*\)/\1/p' ../lines))
done
last_build
assert_all_cached 2
note "TLS: the printed lines, pasted, find every step CACHED"
builder_stop tls
unset BUILDX_BUILDER

# What a command says that speaks the wrong protocol, or has no credentials.
says() { # words command...
  local words=$1
  shift
  ! DOCKER_CONFIG=$WORK/nobody "$@" >said 2>&1 || fail "$* succeeded: $(cat said)"
  grep -qF -- "$words" said || fail "$* says: $(cat said)"
  assert_eq "$(wc -l <said)" 1 "lines that $* says"
}
says "localhost:$port speaks TLS: write https://localhost:$port" larder ls "http://localhost:$port"
says "is not trusted here (--ca FILE" larder ls "localhost:$port"
says "localhost:$port wants credentials: docker login localhost:$port" larder ls --ca ca.pem "localhost:$port"
says "$LARDER speaks plain HTTP: write http://$LARDER" larder status "https://$LARDER"
says "nothing listens at 127.0.0.1:1" larder bench 127.0.0.1:1
assert_eq "$(curl -s -o said -w '%{http_code}' "http://localhost:$port/v2/")" 400 "plain HTTP on the port of TLS"
grep -q 'this port speaks TLS' said || fail "plain HTTP on the port of TLS is told: $(cat said)"
stop_process larder-tls INT

# A quota that is full: everything is young, so nothing can go, and each place says so.
INSTANCE=small larder_start '[[tenants]]' 'name = "default"' 'quota = { max = "17MB" }'
config=$WORK/larder/small/larder.toml
for n in 1 2 3 4 5 6; do
  head -c 4000000 /dev/urandom >payload
  tar -cf layer.tar payload
  crane append --oci-empty-base -f layer.tar -t "$LARDER/app:$n" >said 2>&1 || break
done
assert_eq "$n" 5 "the push that the quota refuses"
grep -q 'that it may store' said || fail "the refusal: $(cat said)"
larder gc --config "$config" >said 2>gc.err || fail "gc: $(cat said gc.err)"
grep -qE 'tenant default has to free .* more and cannot: 4 tags in use too recently; the next eviction is possible from' said ||
  fail "gc does not say why: $(cat said)"
crane append --oci-empty-base -f layer.tar -t "$LARDER/app:6" >said 2>&1 && fail "a full tenant takes a push"
grep -q 'nothing is evicted before' said || fail "the refusal does not say when: $(cat said)"

# Retention, tried on the running server before it is configured.
printf '[[repositories]]\npattern = "app"\nretain = [{ tags = "*", newest = 1 }]\n' >retain.toml
larder gc --dry-run --store "$WORK/larder/small/store" --config retain.toml >said 2>gc.err || fail "gc: $(cat said gc.err)"
assert_eq "$(grep -c 'would be condemned, .*: not among the newest 1' said)" 3 "tags that the policy would expire"
grep -q "policies of retain.toml" gc.err || fail "gc does not say whose policies count: $(cat gc.err)"
note "quota and retention: the refusal, gc and a trial run say what goes, why not, and when"
