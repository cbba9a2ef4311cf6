# shellcheck shell=bash
# What every case has: assertions, notes for the reader, and a list of the
# processes it started, so that all of them end with it.
#
# WORK is the case's own directory. Standard output goes to the case's log;
# file descriptor 3 is the terminal of `run`.

note() {
  echo "$*"
  echo "     $*" >&3
}

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

assert_eq() { # got wanted what
  [ "$1" = "$2" ] || fail "$3: got '$1', wanted '$2'"
}

assert_ne() { # got unwanted what
  [ "$1" != "$2" ] || fail "$3: got '$1', wanted anything else"
}

assert_file_eq() { # file file what
  cmp "$1" "$2" || fail "$3: $1 and $2 differ"
}

assert_at_most() { # got limit what
  [ "$1" -le "$2" ] || fail "$3: got $1, at most $2 allowed"
}

# Bytes without a pattern, the same for the same key and quickly made.
keyed_bytes() { # key count
  openssl enc -aes-128-ctr -nosalt -K "$(printf '%032x' "$1")" -iv "$(printf '%032x' 0)" </dev/zero 2>/dev/null |
    head -c "$2" || true
}

# Waits until a command succeeds.
eventually() { # seconds command...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.05
  done
}

# Starts a background process whose end is certain: `reap` ends what is listed.
spawn() { # name log command...
  local name=$1 log=$2
  shift 2
  mkdir -p "$WORK/pids"
  "$@" >>"$log" 2>&1 3>&- &
  echo $! >"$WORK/pids/$name"
}

pid_of() { cat "$WORK/pids/$1"; }

is_running() { # name
  [ -e "$WORK/pids/$1" ] && alive "$(pid_of "$1")"
}

# A process that ended but is not waited for yet does not count as alive.
alive() { # pid
  local state
  state=$(ps -o state= -p "$1") && [ "${state# }" != Z ]
}

stop_process() { # name [signal]
  [ -e "$WORK/pids/$1" ] || return 0
  local pid
  pid=$(pid_of "$1")
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  # A case may have stopped it half-way.
  kill -CONT "$pid" 2>/dev/null || true
  if ! eventually 20 not alive "$pid"; then
    echo "$1 ($pid) did not end within 20 s and was killed"
    kill -KILL "$pid" 2>/dev/null || true
    eventually 5 not alive "$pid" || true
  fi
  rm -f "$WORK/pids/$1"
}

not() { ! "$@"; }

# Ends every process of a work directory, the youngest first: a server stopped
# under a builder would make the builder wait for retries.
reap() { # work
  local WORK=$1 name
  while read -r _ name; do stop_process "$name"; done \
    < <(find "$WORK/pids" -type f -printf '%T@ %f\n' 2>/dev/null | sort -rn)
  local mount
  while read -r mount; do umount -l "$mount" 2>/dev/null || true; done \
    < <(awk -v dir="$WORK/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r)
}

nothing_left() { [ -z "$(leaks "$1")" ]; } # work

# Names what a case left behind.
leaks() { # work
  local pid command
  awk -v dir="$1/" 'index($2, dir) == 1 { print "mount left behind: " $2 }' /proc/mounts
  while read -r pid command; do
    [[ $command != *"$1/"* ]] || echo "process left behind: $pid $command"
  done < <(ps -eo pid=,args=)
}
