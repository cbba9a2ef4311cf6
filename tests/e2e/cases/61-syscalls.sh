# shellcheck shell=bash
# stores: fs
# The order of system calls for a blob in one piece, one in many, a manifest in
# a new repository and a tag: data, then the file's sync, then its name, then
# the sync of every new folder up to the root, and only then the answer; and for
# their deletion, pointers before what they point to. The record is replayed
# into a model of a disk that loses what was not synced, with the power cut at
# every moment; and again with each sync left out or late.

larder_start
larder_stop

# Traced from its start, on a store that has seen nothing but its own format.
server=larder-main
without=()
for name in "${!LARDER_@}"; do without+=(-u "$name"); done
spawn $server trace.log env "${without[@]}" strace -f -y -s 4096 -o trace \
  -e trace=openat,utimensat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,write,writev,pwrite64,pwritev,copy_file_range,ftruncate,fsync,fdatasync,recvfrom,recvmsg,read,readv,sendto,sendmsg \
  "$LARDER_BIN" serve --config "$(larder_dir)/larder.toml"
eventually 60 larder_ready || fail "larder did not get ready under strace"

push_blob() { # file
  local digest location
  digest=sha256:$(sha256sum "$1" | cut -d' ' -f1)
  location=$(curl -fsS -D - -o /dev/null -X POST -H 'Content-Length: 0' "http://$LARDER/v2/new/app/blobs/uploads/" |
    tr -d '\r' | sed -nE 's/^location: *//Ip')
  curl -fsS -o /dev/null -X PUT -T "$1" -H 'Content-Type: application/octet-stream' "http://$LARDER$location?digest=$digest" ||
    return 1
  echo "$digest"
}

printf '{}' >config
head -c 2000000 /dev/urandom >layer
config=$(push_blob config)
layer=$(push_blob layer)
push_manifest() { # file reference
  curl -fsS -o /dev/null -X PUT -T "$1" -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    "http://$LARDER/v2/new/app/manifests/$2"
}

for number in 1 2; do
  cat >manifest.$number <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$config","size":2},
 "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"$layer","size":2000000}],
 "annotations":{"number":"$number"}}
JSON
done
# One without a tag first: else the syncs for the tag's folders would make good what was left out for the manifest's.
push_manifest manifest.1 "sha256:$(sha256sum manifest.1 | cut -d' ' -f1)"
push_manifest manifest.2 latest
# What is deleted must not come back, and not after what it named has gone.
cp -a "$(larder_store)" before
delete() { curl -fsS -o /dev/null -X DELETE "http://$LARDER/v2/new/app/$1"; }
delete manifests/latest
for number in 1 2; do
  delete "manifests/sha256:$(sha256sum manifest.$number | cut -d' ' -f1)"
done
delete "blobs/$layer"

# The tracer passes the signal on to nobody: stop the server itself.
kill -TERM "$(ps -o pid= --ppid "$(pid_of $server)" | tr -d ' ')"
eventually 60 not is_running $server || fail "larder did not stop"

python3 "$E2E/lib/power.py" trace "$(larder_store)" before --without-each-sync >checked || fail "$(cat checked)"
while read -r line; do note "$line"; done <checked
