# shellcheck shell=bash
# stores: s3
# Replicas over one bucket are one registry: an upload goes on at another replica,
# also when the one before has died, and a tag pushed through one is what the
# next request to any other gets.

for replica in a b c; do INSTANCE=$replica STORE=shared larder_start; done
a=$(INSTANCE=a larder_address) b=$(INSTANCE=b larder_address) c=$(INSTANCE=c larder_address)

location_of() { tr -d '\r' | sed -nE 's/^location: *//Ip'; }

# POST to a, PATCH to b, PATCH to a, b dies, PUT of the rest to c.
head -c 9000000 /dev/urandom >blob
digest=sha256:$(sha256sum blob | cut -d' ' -f1)
location=$(curl -fsS -D - -o /dev/null -X POST -H 'Content-Length: 0' "http://$a/v2/one/blobs/uploads/" | location_of)
patch() { # host from to
  dd if=blob of=chunk bs=1000 skip=$(($2 / 1000)) count=$((($3 - $2) / 1000)) status=none
  location=$(curl -fsS -D - -o /dev/null -X PATCH --data-binary @chunk -H "Content-Range: $2-$(($3 - 1))" \
    -H 'Content-Type: application/octet-stream' "http://$1$location" | location_of)
}
patch "$b" 0 6000000
patch "$a" 6000000 8000000
INSTANCE=b larder_kill9
dd if=blob of=chunk bs=1000 skip=8000 status=none
status=$(curl -sS -o answer -w '%{http_code}' -X PUT --data-binary @chunk -H 'Content-Type: application/octet-stream' \
  -H 'Content-Range: 8000000-8999999' "http://$c${location}$([[ $location == *\?* ]] && echo '&' || echo '?')digest=$digest")
assert_eq "$status" 201 "status of the closing request"
for replica in "$a" "$c"; do
  assert_eq "$(curl -fsS "http://$replica/v2/one/blobs/$digest" | sha256sum | cut -d' ' -f1)" "${digest#*:}" "blob at $replica"
done
assert_eq "$(find "$(STORE=shared larder_store)/t/default/uploads" -type f 2>/dev/null | wc -l)" 0 "leftovers of the upload"

# 200 pushes of a tag, each read at once from the other two.
INSTANCE=b larder_launch || fail "larder did not start after a kill"
echo '{}' >config.json
config=$(put_blob "$a/fresh" config.json)
stale=0
for ((n = 1; n <= 200; n++)); do
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":3},"layers":[],"annotations":{"n":"%d"}}' "$config" $n >manifest
  put_manifest "$a/fresh:latest" manifest
  wanted=sha256:$(sha256sum manifest | cut -d' ' -f1)
  for replica in "$b" "$c"; do
    [ "$(digest_of "$replica/fresh:latest")" = "$wanted" ] || stale=$((stale + 1))
  done
done
note "a tag pushed 200 times through one replica: $stale of 400 reads at the others were stale"
assert_eq $stale 0 "stale reads"
