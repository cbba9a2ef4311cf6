# shellcheck shell=bash
# Runs what a guide tells its readers to do. In a guide, blocks marked "sh run"
# are commands, those marked "… file=NAME" are files beside them. Addresses are
# replaced by those of the case, and `docker buildx` by buildx, with a builder
# of the case: nothing else is changed.

readonly GUIDES=$E2E/../../docs/guides

guide_files() { # guide: writes its files into the current directory
  local name
  sed -n 's/^```[a-z]* file=//p' "$1" | sort -u | while read -r name; do
    awk -v name="$name" '/^```/ { on = ($0 ~ "^```[a-z]* file=" name "$"); next } on' "$1" | guide_addresses >"$name"
  done
}

# The shell does not stop at "! command", so say what it is to do.
guide_commands() { # guide
  awk '/^```/ { on = ($0 == "```sh run"); next } on' "$1" | guide_addresses |
    sed 's/^! \(.*\)/if \1; then echo "line $LINENO was to fail" >\&2; exit 1; fi/'
}

guide_blocks() { # guide info-string directory: one file a block
  awk -v info="$2" -v dir="$3" '/^```/ { on = ($0 == "```" info); if (on) file = dir "/" (++n) ".yml"; next } on { print > file }' "$1"
}

# OLD is a plain registry, BUILDER the address of a builder.
guide_addresses() {
  sed -e "s/127\.0\.0\.1:5000/$LARDER/g" -e "s/127\.0\.0\.1:5001/${OLD:-}/g" -e "s/127\.0\.0\.1:1234/${BUILDER:-}/g"
}

# Programs as the readers have them. The progress of each build is kept.
guide_path() {
  mkdir -p "$WORK/bin" "$WORK/builds"
  ln -sf "$LARDER_BIN" "$WORK/bin/larder"
  cat >"$WORK/bin/docker" <<SH
#!/bin/sh
[ "\$1" = buildx ] || exit 127
shift
case " \$* " in
*" create "*) exec buildx "\$@" ;;
esac
BUILDKIT_PROGRESS=rawjson exec buildx "\$@" 2>"$WORK/builds/\$(date +%s%N).json"
SH
  chmod +x "$WORK/bin/docker"
  PATH=$WORK/bin:$PATH
}

guide_run() { # name: in a directory of its own, with something to build
  local guide=$GUIDES/$1.md
  [ -e "$guide" ] || fail "no guide $1"
  mkdir -p "$WORK/guide/$1"
  cd "$WORK/guide/$1"
  guide_files "$guide"
  guide_commands "$guide" >commands
  [ -s commands ] || fail "$1: nothing to run"
  env "${without[@]}" bash -euo pipefail commands >output 2>&1 </dev/null || {
    cat output
    for log in "$WORK"/builds/*.json; do grep -v '^{' "$log" | tail -5; done
    fail "$1: a command failed"
  }
  cd "$WORK"
}

# The build that a guide ran last.
last_build() {
  local logs=("$WORK"/builds/[0-9]*.json)
  BUILD_LOG=${logs[-1]}
}
