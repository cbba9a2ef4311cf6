# shellcheck shell=bash
# stores: fs
# A full disk refuses uploads with a message that a build shows, before the
# layers are sent; everything that is there is still served, to a server that was
# started on the full disk too; and with space it all goes on by itself. A tenant
# that has reached its quota is told the numbers.

# The store on a small disk of its own, with something else to fill it with.
larder_own_disk 96m
disk=$(larder_dir)/disk
free() { df --output=avail -B1 "$disk" | tail -1; }
fill() { # all but so many bytes
  local bytes=$(($(free) - $1))
  [ $bytes -le 0 ] || head -c $bytes /dev/zero >>"$disk/filler"
}

larder_start '[hot]' 'size = "8MiB"' \
  '[[tenants]]' 'name = "small"' 'repositories = ["small/**"]' 'quota = { max = "1MB" }'
base_push
builder_start a
mapfile -t to < <(cache_to "$LARDER/cache/app:latest" mode=max)
mapfile -t from < <(cache_from "$LARDER/cache/app:latest")
build a "$CONTEXTS/app" "${to[@]}" --output type=local,dest=made

# Nothing but the reserve is left: a twentieth of the disk.
fill 4000000
mapfile -t other < <(cache_to "$LARDER/cache/other:latest" mode=max)
build a "$CONTEXTS/chain" "${other[@]}" && fail "a build exported to a full disk"
build_errors >refused
grep -q 'denied: store is full: .* are free and 4.8 MiB are kept in reserve' refused || fail "no clear message: $(cat refused)"
note "a build says: $(grep -o 'denied: .*' refused | head -1)"
assert_eq "$(larder_requests | jq -s '[.[] | select(.status == 507 and .bytes_in > 0)] | length')" 0 "layers sent in vain"
begin() { # host:port/repo -> status of the request that begins an upload
  curl -sS -o /dev/null -w '%{http_code}' -X POST -H 'Content-Length: 0' "http://${1%%/*}/v2/${1#*/}/blobs/uploads/"
}
assert_eq "$(begin "$LARDER/cache/app")" 507 "an upload to a full disk"

# What is there is served: from memory, and by a server that begins on a full disk.
reads_go_on() { # name
  builder_start "$1"
  build "$1" "$CONTEXTS/app" "${from[@]}" --output "type=local,dest=$1-pulled"
  assert_all_cached 2
  builder_stop "$1"
  diff -r --no-dereference made "$1-pulled" >/dev/null || fail "$1 pulled other content"
}
reads_go_on hot
larder_restart
reads_go_on cold

# Without a reserve, to the very last byte.
sed -i '/^path = /a reserve = "0B"' "$(larder_dir)/larder.toml"
larder_restart
fill 1500000
assert_eq "$(begin "$LARDER/cache/app")" 202 "an upload while there is room"
fill 0
head -c 3000000 /dev/urandom >large
digest=sha256:$(sha256sum large | cut -d' ' -f1)
for _ in 1 2 3; do
  status=$(curl -sS -o refused.json -w '%{http_code}' -X POST -H 'Transfer-Encoding: chunked' --data-binary @large \
    -H 'Content-Type: application/octet-stream' "http://$LARDER/v2/cache/app/blobs/uploads/?digest=$digest")
  assert_eq "$status" 507 "an upload to a disk without a byte"
done
assert_eq "$(jq -r '.errors[0].code' refused.json)" DENIED "code of the refusal"
reads_go_on last
assert_eq "$(curl -fsS -o /dev/null -w '%{http_code}' "http://$LARDER/readyz")" 200 "readiness, for readers"

# With space, the next build goes on as if nothing had been.
rm "$disk/filler"
build a "$CONTEXTS/chain" "${other[@]}"
builder_start after
mapfile -t imported < <(cache_from "$LARDER/cache/other:latest")
build after "$CONTEXTS/chain" "${imported[@]}"
assert_all_cached 4
find "$disk/store/.larder/tmp" -type f | grep . && fail "refused uploads left files"

# The numbers of a quota.
mapfile -t small < <(cache_to "$LARDER/small/app:latest" mode=max)
build a "$CONTEXTS/app" "${small[@]}" && fail "a build exported beyond a quota"
build_errors >quota
grep -q 'denied: tenant small has .* of the 976.6 KiB that it may store' quota || fail "no numbers: $(cat quota)"
note "a build says: $(grep -o 'denied: .*' quota | head -1)"
