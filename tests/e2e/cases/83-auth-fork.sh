# shellcheck shell=bash
# buildkits: all with --full
# A fork's pull request and the branch it is for, with the same lines in the
# workflow: the pull request builds on the branch's cache and on its own; what it
# pushes no build of the branch, nor another pull request, can ever find.

issuer_start
larder_start "$(issuer_entry)" \
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/heads/main" }' 'may = ["pull", "push", "delete"]' \
  'repositories = ["{repository}/**", "library/**"]' \
  '[[rules]]' 'identity = "oidc:ci"' 'claims = { ref = "refs/pull/**" }' 'may = ["pull", "push", "delete"]' \
  'repositories = "{repository}/**"' 'scope = "{repository}@{ref}"' \
  '[[rules]]' 'identity = "anonymous"' 'may = ["pull"]' 'repositories = "library/**"'

declare -A token
for job in heads/main pull/7/merge pull/8/merge; do
  claims=$(jq -cn --arg ref "refs/$job" '{repository: "org/app", ref: $ref}')
  token[$job]=$("$LARDER_BIN" login "http://$LARDER" --print --jwt-file <(jwt 60 "$claims"))
done
as() { # job: the login of the next builds
  login gha "${token[$1]}"

}
ask() { # job method path -> status; the body goes to the file `answer`
  curl -s -o answer -w '%{http_code}' -u "gha:${token[$1]}" -X "$2" ${2:+$([ "$2" != HEAD ] || echo -I)} \
    -H 'Accept: */*' "http://$LARDER/v2/$3"
}
served() { # job -> what the tag is: its digest, its manifest and the config in it
  local config
  assert_eq "$(ask "$1" GET org/app/cache/manifests/latest)" 200 "status of the tag"
  sha256sum answer
  cat answer
  config=$(jq -r .config.digest answer)
  assert_eq "$(ask "$1" GET "org/app/cache/blobs/$config")" 200 "status of the config"
  cat answer
}

ref=$LARDER/org/app/cache:latest
lines=(--export-cache "type=registry,ref=$ref,mode=max" --import-cache "type=registry,ref=$ref")
as heads/main
base_push
builder_start main
build main "$CONTEXTS/chain" "${lines[@]}"
builder_stop main
served heads/main >main.before

# The fork's change: one step more, on top of what main has.
cp -r "$CONTEXTS/chain" fork
printf 'RUN echo from the fork %s > /fork\n' "$RANDOM" >>fork/Dockerfile

as pull/7/merge
builder_start fork
build fork "$CONTEXTS/chain" --import-cache "type=registry,ref=$ref"
assert_all_cached 4
builder_prune fork
build fork fork "${lines[@]}"
assert_cached 4 5
builder_prune fork
build fork fork --import-cache "type=registry,ref=$ref" --output type=local,dest=of-fork
assert_all_cached 5
builder_stop fork
note "the pull request: 4 of 4 steps CACHED from main, then 5 of 5 with its own"

# What only the pull request has: layers, configs, manifests, and a tag of its own.
assert_eq "$(ask pull/7/merge GET org/app/cache/manifests/latest)" 200 "status of the pull request's tag"
cp answer fork.manifest
fork_manifest=sha256:$(sha256sum answer | cut -d' ' -f1)
assert_eq "$(curl -s -o /dev/null -w '%{http_code}' -u "gha:${token[pull/7/merge]}" -X PUT -T fork.manifest \
  -H "Content-Type: $(jq -r .mediaType fork.manifest)" "http://$LARDER/v2/org/app/cache/manifests/guess")" 201 "own tag"
ask heads/main GET org/app/cache/manifests/latest >/dev/null
jq -r '.config.digest, .layers[].digest' answer | sort >main.digests
jq -r '.config.digest, .layers[].digest' fork.manifest | sort | comm -23 - main.digests >only-fork
[ -s only-fork ] || fail "the fork pushed nothing of its own"

served heads/main >main.after
assert_file_eq main.before main.after "what main is served"
guesses=0
for job in heads/main pull/8/merge; do
  while read -r digest; do
    for method in HEAD GET; do
      assert_eq "$(ask $job $method "org/app/cache/blobs/$digest")" 404 "$job: $method of a blob of the fork"
    done
    assert_eq "$(ask $job POST "org/app/cache/blobs/uploads/?mount=$digest&from=org/app/cache")" 202 "$job: mount"
    guesses=$((guesses + 3))
  done <only-fork
  for guess in guess "$fork_manifest"; do
    assert_eq "$(ask $job GET "org/app/cache/manifests/$guess")" 404 "$job: manifest $guess"
    assert_eq "$(ask $job DELETE "org/app/cache/manifests/$guess")" 404 "$job: delete $guess"
    guesses=$((guesses + 2))
  done
  assert_eq "$(ask $job GET "org/app/cache/referrers/$fork_manifest")" 200 "$job: referrers"
  assert_eq "$(jq '.manifests | length' answer)" 0 "$job: referrers of the fork's manifest"
  assert_eq "$(ask $job GET org/app/cache/tags/list)" 200 "$job: tags"
  assert_eq "$(jq -c .tags answer)" '["latest"]' "$job: tags"
  guesses=$((guesses + 2))
done
note "main and another pull request: $guesses guesses, none of them told them anything"

# With the fork's own sources, to the letter.
for job in heads/main pull/8/merge; do
  as $job
  builder_start "${job//\//-}"
  build "${job//\//-}" fork --import-cache "type=registry,ref=$ref"
  assert_cached 4 5
  builder_stop "${job//\//-}"
done
# And the other way round: each has its own, and main's is still what it was.
as pull/8/merge
cp -r "$CONTEXTS/chain" fork8
printf 'RUN echo from another fork > /fork\n' >>fork8/Dockerfile
builder_start eight
build eight fork8 "${lines[@]}"
builder_prune eight
build eight fork8 --import-cache "type=registry,ref=$ref"
assert_all_cached 5
builder_stop eight
as pull/7/merge
builder_start seven
build seven fork8 --import-cache "type=registry,ref=$ref"
assert_cached 4 5
builder_prune seven
build seven fork --import-cache "type=registry,ref=$ref"
assert_all_cached 5
builder_stop seven
served heads/main >main.end
assert_file_eq main.before main.end "what main is served"
note "main is served the same $(stat -c %s main.before) bytes before and after"
