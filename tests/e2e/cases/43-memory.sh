# shellcheck shell=bash
# stores: s3
# However much moves at once, memory is the hot layer and a constant for each
# transfer; and a client that stops reading is nobody else's trouble.

readonly COUNT=64 HOT='[hot]
size = "256MiB"'
readonly LIMIT_KB=$((512 << 10))
mib=${FULL:+128}
mib=${mib:-16}
bytes=$((mib << 20))

# Blobs that differ in their last bytes only: quickly made. On a filesystem that compresses they take no room: 16 GiB in
# the full form.
truncate -s $((bytes - 8)) base
blob() { # number
  cat base
  printf '%08d' "$1"
}
python3 -c 'import hashlib, sys
common = hashlib.sha256(open("base", "rb").read())
for number in range(int(sys.argv[1])):
    blob = common.copy()
    blob.update(b"%08d" % number)
    print(blob.hexdigest())' $((2 * COUNT)) >digests
mapfile -t digests <digests

peak_kb() { awk '$1 == "VmHWM:" { print $2 }' "/proc/$(pid_of "larder-${INSTANCE:-main}")/status"; }

all() { # command, run with each number at once
  local n jobs=() job
  for ((n = 0; n < COUNT; n++)); do
    "$@" $n &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || fail "$* failed"; done
}

push() { # number
  local location
  location=$(curl -fsS -D - -o /dev/null -X POST -H 'Content-Length: 0' "http://$LARDER/v2/many/blobs/uploads/" |
    tr -d '\r' | sed -nE 's/^location: *//Ip')
  blob "$1" | curl -fsS -o /dev/null -X PUT -T - -H "Content-Length: $bytes" -H 'Transfer-Encoding:' -H 'Expect:' \
    -H 'Content-Type: application/octet-stream' "http://$LARDER$location?digest=sha256:${digests[$1]}"
}
pull() { # number
  local got
  # What does not fit its digest is cut. A layer that has to wait for long is asked for again, as builders do.
  got=$(curl -fsS --retry 4 -o /dev/null -w '%{size_download}' "http://$LARDER/v2/many/blobs/sha256:${digests[$1]}")
  assert_eq "$got" $bytes "bytes of blob $1"
}

STORE=shared larder_start "$HOT"
start=$SECONDS
all push
peak=$(peak_kb)
note "$COUNT pushes of $mib MiB at once: $((peak >> 10)) MiB at most, $((SECONDS - start)) s"
assert_at_most "$peak" $LIMIT_KB "resident KiB of pushes"
larder_stop

INSTANCE=cold STORE=shared larder_start "$HOT"
start=$SECONDS
all pull
peak=$(INSTANCE=cold peak_kb)
note "$COUNT pulls of $mib MiB at once, cold: $((peak >> 10)) MiB at most, $((SECONDS - start)) s"
assert_at_most "$peak" $LIMIT_KB "resident KiB of pulls"
INSTANCE=cold larder_stop

# Readers of one cold blob, without and with one that stops after its first bytes.
read_same() { curl -fsS -o /dev/null "http://$LARDER/v2/many/blobs/sha256:${digests[0]}"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
crowd() { # instance -> milliseconds
  local start
  start=$(milliseconds)
  all read_same
  echo $(($(milliseconds) - start))
}
INSTANCE=without STORE=shared larder_start "$HOT"
alone=$(crowd)
INSTANCE=without larder_stop

INSTANCE=with STORE=shared larder_start "$HOT"
exec 8<>"/dev/tcp/${LARDER%:*}/${LARDER#*:}"
printf 'GET /v2/many/blobs/sha256:%s HTTP/1.1\r\nHost: larder\r\n\r\n' "${digests[0]}" >&8
head -c 100 <&8 >/dev/null
beside=$(crowd)
exec 8>&-
note "$COUNT readers of one cold blob: $alone ms, beside a stalled one $beside ms"
assert_at_most "$beside" $((alone * 3 + 2000)) "milliseconds beside a stalled reader"

# Both at once, with a small layer.
if [ -n "$FULL" ]; then
  INSTANCE=both STORE=shared larder_start '[hot]' 'size = "64MiB"'
  both() { # number
    pull "$1" &
    push $(($1 + COUNT))
    wait $!
  }
  start=$SECONDS
  all both
  peak=$(INSTANCE=both peak_kb)
  note "$COUNT pushes and $COUNT cold pulls of $mib MiB at once, hot layer of 64 MiB: $((peak >> 10)) MiB at most, $((SECONDS - start)) s"
  assert_at_most "$peak" $((256 << 10)) "resident KiB of pushes and pulls"
  INSTANCE=both larder_stop
fi
