# shellcheck shell=bash
# A cache in each form that BuildKit has for it, and one inside an image, survive
# collections for as long as a tag names them; when the tag was replaced or
# deleted, they go, to the last byte.

readonly STEPS=4
[ "$STORE_KIND" = s3 ] || larder_own_disk 1g
# Nothing collects but this case, between builds: so no build has to be shorter than the grace.
larder_start '[collect]' 'enabled = false' 'grace = "1s"' 'lease = "1s"' 'short_spans = true' \
  '[[tenants]]' 'name = "library"' 'repositories = ["library/**"]'
base_push
store=$(larder_store)/t/default
gc() { env "${without[@]}" "$LARDER_BIN" gc --config "$(larder_dir)/larder.toml"; }
# What is garbage is condemned, waits, and is deleted; only then what it named is garbage.
collect() {
  for _ in 1 2 3 4 5; do
    gc >>gc.log 2>&1 || fail "gc: $(tail -5 gc.log)"
    sleep 2.5
  done
}
objects() { find "$store" -type f -not -path '*/used/*' 2>/dev/null | sort; }
assert_nothing_left() { # what
  collect
  [ -z "$(find "$store/" -type f 2>/dev/null)" ] || fail "left of $1: $(find "$store/" -type f)"
}

form_options() { # form ref
  case $1 in
    image) echo "type=registry,mode=max,image-manifest=true,ref=$2" ;;
    index) echo "type=registry,mode=max,image-manifest=false,ref=$2" ;;
    list) echo "type=registry,mode=max,image-manifest=false,oci-mediatypes=false,ref=$2" ;;
    inline) echo type=inline ;;
  esac
}
push() { # form ref
  local to=(--export-cache "$(form_options "$1" "$2")")
  [ "$1" != inline ] || to+=(--output "type=image,name=$2,push=true")
  build pushing "$CONTEXTS/chain" "${to[@]}"
}
remove() { curl -fsS -o /dev/null -X DELETE "http://$LARDER/v2/app/$1/manifests/main"; }

builder_start pushing
builder_start importing
for form in image index list inline; do
  ref=$LARDER/app/$form:main
  push $form "$ref"
  before=$(objects)
  collect
  assert_eq "$(objects)" "$before" "objects of a $form that is named, after collections"
  mapfile -t from < <(cache_from "$ref")
  build importing "$CONTEXTS/chain" "${from[@]}"
  assert_all_cached $STEPS
  builder_prune importing

  # What replaces it is another image: all that is left is what that has by itself.
  crane copy "$BASE:amd64" "$ref" >>crane.log 2>&1 || fail "the tag of a $form is not replaced: $(tail -3 crane.log)"
  collect
  assert_eq "$(objects | grep -c /blobs/)/$(objects | grep -c /manifests/)" 2/1 "blobs and manifests after a $form was replaced"
  remove $form
  assert_nothing_left "an image that replaced a $form"

  push $form "$ref"
  remove $form
  assert_nothing_left "a $form that was deleted"
  note "$form: $(wc -l <<<"$before") objects, none left after it was replaced, nor after it was deleted"
done
