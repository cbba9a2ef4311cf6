# shellcheck shell=bash
# stores: fs
# What a newcomer does: the commands of the README in a fresh clone, the line
# that the server prints pasted in a project of his. The second builder, who has
# never seen the project, builds nothing. docs/first-use.md is what this printed
# (TRANSCRIPT names the file to write); compiling is left out.

readonly README=$E2E/../../README.md
transcript=${TRANSCRIPT:-$WORK/transcript}
: >"$transcript"
say() { printf '%s\n' "$*" >>"$transcript"; }

# A project: what it needs, what it compiles, what it ships.
mkdir -p project bin
larder_start
base_push
seeded=$BASE
project=$PWD/project
cat >project/Dockerfile <<DOCKERFILE
FROM $seeded AS build
RUN echo "fetching dependencies" && sleep 3 && seq 100000 > /deps
COPY main.c /
RUN echo "compiling" && sleep 3 && cat /deps /main.c > /app
FROM $seeded
COPY --from=build /app /app
DOCKERFILE
echo 'int main() {}' >project/main.c

# The newcomer's server is another one, on the port of the README where it is free.
readonly serve='cargo run --release -- serve'
grep -qxF "$serve" <(sed 's/ *#.*//' "$README") || fail "the README does not say: $serve"
mkdir clone
arguments=()
if (exec 9<>/dev/tcp/127.0.0.1/5000) 2>/dev/null; then arguments=(--listen "127.0.0.1:$(free_port)"); fi
started=$(date +%s%N)
seconds() { awk -v ns=$(($(date +%s%N) - started)) 'BEGIN { printf "%.1f", ns / 1e9 }'; }
say "$ $serve"
(
  cd clone
  # Compiled already: this is the program that it runs.
  spawn first "$WORK/banner" env "${without[@]}" "$LARDER_BIN" serve "${arguments[@]}"
)
eventually 60 grep -q 'A builder on another host' banner || fail "the server says nothing: $(cat banner)"
sed -n '/^larder/,/^A builder on another/p' banner | sed '$d' >>"$transcript"
ready=$(seconds)

# The printed lines, word for word. There is no Docker here: `docker buildx` is
# buildx, and its builders are daemons of this case.
create=$(sed -n 's/^ *\(docker buildx create .*network=host.*\)/\1/p' banner)
paste=$(sed -n '/^A builder on another/q; s/^ *\(docker buildx build .*\)/\1/p' banner)
[ -n "$create" ] && [ -n "$paste" ] || fail "no lines to paste in: $(cat banner)"
grep -qF "$create" "$README" || fail "the README and the server tell different lines"
cat >bin/docker <<'SH'
#!/bin/bash
shift
[ "$1" != create ] || exec buildx create --driver remote --name "$BUILDER_NAME" --use "$BUILDER_ADDRESS"
exec buildx "$@"
SH
chmod +x bin/docker
# buildx tells its progress on a terminal as people see it; here, as text.
newcomer() { # builder what
  builder_start "$1"
  say ""
  say "# $2"
  say "$ $create"
  export BUILDER_NAME=$1 BUILDER_ADDRESS BUILDX_CONFIG=$WORK/buildx-$1
  BUILDER_ADDRESS=$(builder_addr "$1")
  (cd project && PATH=$WORK/bin:$PATH bash -c "$create") >/dev/null
  say "$ $paste"
  local begun=$SECONDS
  (cd "$project" && PATH=$WORK/bin:$PATH BUILDKIT_PROGRESS=plain bash -c "$paste") >"$1.out" 2>&1 || {
    cat "$1.out"
    fail "the pasted line failed"
  }
  # The steps, and what is done with the cache, each line once.
  awk '/^#[0-9]+ (\[[^]]*[0-9]\/[0-9]\]|importing cache|exporting cache to)/ { shown[$1] = 1; if (!told[$0]++) print; next }
    shown[$1] && /^#[0-9]+ (CACHED|DONE)/' "$1.out" |
    sed -e "s|${seeded%%/*}|registry.example.com|g" -e 's/@sha256:[0-9a-f]*//' >>"$transcript"
  say "($((SECONDS - begun)) s)"
  builder_stop "$1"
}
newcomer first-builder "in a project with a Dockerfile"
newcomer second-builder "another runner, which has never seen the project"
cached=$(grep -c '^#[0-9]* CACHED' second-builder.out)
assert_eq "$cached" 4 "steps CACHED for the second builder"
total=$(seconds)
say ""
say "# $ready s to the server's first words, $total s to the cached build of another runner"
note "ready after $ready s; another runner's build fully CACHED after $total s"
assert_at_most "${total%.*}" 300 "seconds from the first command to the cached build"
stop_process first
