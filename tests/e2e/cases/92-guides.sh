# shellcheck shell=bash
# stores: fs
# The commands of the guides, run as they are written.

guide_path
larder_start
base_push
builder_start a
buildx_use a

context() { # directory
  mkdir -p "$1"
  cat >"$1/Dockerfile" <<DOCKERFILE
FROM $BASE AS deps
RUN echo deps > /deps
FROM deps AS api
RUN echo api > /api
FROM deps AS web
RUN echo web > /web
DOCKERFILE
}

# A cache in a plain registry, from where it is moved.
NEW=$LARDER
INSTANCE=old larder_start '[[repositories]]' 'pattern = "**"' 'views = false'
OLD=$LARDER LARDER=$NEW
context guide/from-registry
docker buildx build --cache-to "type=registry,ref=$OLD/app:cache,mode=max" guide/from-registry
builder_prune a
guide_run from-registry
last_build
assert_all_cached 2
builder_prune a
docker buildx build --cache-from "type=registry,ref=$NEW/app:cache" guide/from-registry
last_build
assert_all_cached 2
note "from-registry: both ways keep every step"

context guide/bake-monorepo
guide_run bake-monorepo
builder_prune a
(cd guide/bake-monorepo && docker buildx bake)
last_build
# Three instructions; the shared one shows once or twice, as BuildKit merges it.
assert_eq "$(steps_cached)" "$(steps_total)" "steps CACHED in the bake of a fresh builder"
[ "$(steps_total)" -ge 3 ] || fail "only $(steps_total) steps were baked"
grep -q 'pushes' guide/bake-monorepo/output || fail "inspect says nothing of pushes"
note "bake-monorepo: $(steps_cached) of $(steps_total) steps CACHED on a fresh builder"

# Where the reader of the handbook stands, in the folder of a server.
mkdir -p guide/failure-handbook
ln -s "$(larder_store)" guide/failure-handbook/larder-data
guide_run failure-handbook
note "failure-handbook: the first look"

# A copy of a store into which images are pushed all the while.
mkdir -p guide/backup
ln -s "$(larder_store)/" guide/backup/larder-data
pushing() {
  local n
  for ((n = 1; n <= 400; n++)); do
    seq "$n" "$((n + 5000))" >payload
    tar -cf layer.tar payload
    crane append --oci-empty-base -f layer.tar -t "$LARDER/pushed:$((n % 7))" >/dev/null 2>&1 || return 1
    touch pushed-$n
    [ ! -e enough ] || return 0
  done
}
pushing &
pusher=$!
eventually 120 test -e pushed-3 || fail "nothing is pushed"
guide_run backup
touch enough
wait "$pusher" || fail "a push failed while the store was copied"
assert_ne "$(find guide/backup/backup -path '*/blobs/*' -type f | wc -l)" 0 "blobs in the copy"
INSTANCE=restored larder_start
INSTANCE=restored larder_stop
rm -rf "$(INSTANCE=restored larder_store)"
cp -r guide/backup/backup "$(INSTANCE=restored larder_store)"
INSTANCE=restored larder_launch || fail "no server on the copy"
builder_prune a
docker buildx build --cache-from "type=registry,ref=$LARDER/shop/cache:main" --target web guide/bake-monorepo
last_build
assert_all_cached 2
note "backup: copied while $(ls pushed-* | wc -l) images were pushed; the copy is sound and serves every step"
LARDER=$NEW
builder_stop a
unset BUILDX_BUILDER

# Rules, as they are shown.
for guide in github-actions gitlab; do guide_run $guide; done
note "github-actions, gitlab: rules decide as the guides say"
workflows=0
mkdir -p workflows/.github/workflows
guide_blocks "$GUIDES/github-actions.md" "yaml workflow" workflows/.github/workflows
for workflow in workflows/.github/workflows/*.yml; do
  actionlint -shellcheck= "$workflow" || fail "a workflow of the guide is not valid"
  workflows=$((workflows + 1))
done
note "github-actions: $workflows workflows pass actionlint"

# A team: the file of the guide, the credentials that its commands make, and builds by each of them.
LARDER=127.0.0.1:$(free_port)
guide_run small-team
team=$WORK/guide/small-team
INSTANCE=team
mkdir -p "$(larder_dir)"
spawn larder-team "$(larder_log)" env "${without[@]}" "$LARDER_BIN" serve --config "$team/larder.toml" --store "$(larder_dir)/store"
eventually 60 larder_ready || fail "the server of the team: $(tail -5 "$(larder_log)")"
awk '/^```/ { on = ($0 == "```sh job"); next } on' "$GUIDES/small-team.md" | guide_addresses |
  sed 's/^docker login .*//' >job
context job-context
builder_start team
buildx_use team
as() { # name secret: the build of a job, with these credentials
  mkdir -p "docker-$1"
  printf '{"auths":{"%s":{"auth":"%s"}}}' "$LARDER" "$(printf 'any:%s' "$2" | base64 -w0)" >"docker-$1/config.json"
  builder_prune team
  (cd job-context && DOCKER_CONFIG=$WORK/docker-$1 bash -euo pipefail ../job) || fail "the build of $1 failed"
  last_build
}
secret() { sed -n 's/^  \(larder_.*\)/\1/p' "$team/$1.txt"; }
as ci "$(secret ci)"
as ci "$(secret ci)"
assert_all_cached 2
as pr "$(secret pr)"
assert_all_cached 2
note "small-team: the jobs of main and of pull requests find every step CACHED"
builder_stop team
unset BUILDX_BUILDER INSTANCE
LARDER=$NEW

# TLS with client certificates, on addresses of their own.
LARDER=127.0.0.1:$(free_port)
BUILDER=127.0.0.1:$(free_port)
mkdir -p guide/remote-driver-mtls
cd guide/remote-driver-mtls
printf 'FROM scratch\nCOPY Dockerfile /\nCOPY Dockerfile /again\n' >Dockerfile
printf '*\n!Dockerfile\n' >.dockerignore
guide_files "$GUIDES/remote-driver-mtls.md"
# The certificates first: both servers read them when they start.
guide_commands "$GUIDES/remote-driver-mtls.md" | sed '/^docker /,$d' >certificates
bash -euo pipefail certificates
spawn larder-mtls larder.log env "${without[@]}" LARDER_SERVER_LISTEN="[\"$LARDER\"]" larder serve --config larder.toml
spawn builder-mtls builder.log buildkitd --config buildkitd.toml --root "$WORK/builders/mtls/root"
eventually 60 bash -c "exec 9<>/dev/tcp/${LARDER/:/\/}" || fail "larder with TLS: $(tail -5 larder.log)"
eventually 60 bash -c "exec 9<>/dev/tcp/${BUILDER/:/\/}" || fail "builder with TLS: $(tail -5 builder.log)"
guide_commands "$GUIDES/remote-driver-mtls.md" | sed -n '/^docker /,$p' >commands
env "${without[@]}" bash -euo pipefail commands >output 2>&1 || {
  cat output larder.log
  tail -n 20 builder.log
  grep -hv '^{' "$WORK"/builds/*.json
  fail "remote-driver-mtls: a command failed"
}
buildctl --addr "tcp://$BUILDER" --tlsservername localhost --tlscacert ca.pem --tlscert job.pem --tlskey job.key prune --all >/dev/null
docker buildx build --builder remote --cache-from "type=registry,ref=$LARDER/app:cache" .
last_build
assert_all_cached 2
grep -q 'cert:builder' larder.log || fail "the server does not name the builder: $(tail -3 larder.log)"
note "remote-driver-mtls: every step CACHED over mutual TLS"
stop_process builder-mtls
stop_process larder-mtls
cd "$WORK"
