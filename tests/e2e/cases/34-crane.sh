# shellcheck shell=bash
# Larder is a registry for ordinary images too: another client pushes, copies,
# lists, pulls and deletes multi-platform images.

larder_start
base_push
repo=$LARDER/library/base

assert_eq "$(crane ls "$repo" | sort | xargs)" "386 amd64 arm64 latest" "tags"
assert_eq "$(crane catalog "$LARDER")" library/base "catalog"
crane validate --remote "$repo:latest"

# Pull the index to a layout and push it back under another name: same digest.
crane pull --format=oci "$repo:latest" layout
crane push layout "$LARDER/copies/pushed:1"
assert_eq "$(crane digest "$LARDER/copies/pushed:1")" "$(crane digest "$repo:latest")" "digest of the pushed index"

crane copy "$repo:latest" "$LARDER/copies/copied:1"
assert_eq "$(crane digest "$LARDER/copies/copied:1")" "$(crane digest "$repo:latest")" "digest of the copy"
assert_eq "$(crane config --platform linux/386 "$LARDER/copies/copied:1" | jq -r .architecture)" 386 "platform of the copy"
crane validate --remote "$LARDER/copies/copied:1"

crane pull --platform linux/arm64 "$LARDER/copies/copied:1" arm64.tar
crane push arm64.tar "$LARDER/copies/arm64:1"
crane export "$LARDER/copies/arm64:1" - | tar -t >files
grep -qx 'bin/busybox' <(sed 's,^\./,,' files) || fail "the pulled image lacks its files"

assert_eq "$(crane catalog "$LARDER" | sort | xargs)" "copies/arm64 copies/copied copies/pushed library/base" "catalog"

# A tag can go while another one keeps the manifest.
crane tag "$LARDER/copies/copied:1" second
crane delete "$LARDER/copies/copied:1"
assert_eq "$(crane ls "$LARDER/copies/copied")" second "tags after the deletion of one"
crane manifest "$LARDER/copies/copied:1" >/dev/null 2>&1 && fail "a deleted tag still answers"
crane validate --remote "$LARDER/copies/copied:second"
