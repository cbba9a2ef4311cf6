# shellcheck shell=bash
# buildkits: all
# What one builder exports, another one imports: every step but FROM is CACHED
# there, the layers can really be pulled, and they hold what the first builder
# made. In every form that BuildKit writes; --full runs all 24 combinations of
# mode, form and compression, otherwise each value is there at least once.

readonly CONTEXT=$CONTEXTS/chain STEPS=4

declare -A form_attributes=(
  [image]=image-manifest=true
  [index]=image-manifest=false
  [list]="image-manifest=false,oci-mediatypes=false"
)
declare -A form_types=(
  [image]=application/vnd.oci.image.manifest.v1+json
  [index]=application/vnd.oci.image.index.v1+json
  [list]=application/vnd.docker.distribution.manifest.list.v2+json
)

# The suffix of the layer media type a compression leads to.
layer_suffix() { # form compression
  case $1/$2 in
    list/uncompressed) echo .diff.tar ;;
    list/zstd) echo .diff.tar.zstd ;;
    list/*) echo .diff.tar.gzip ;;
    */uncompressed) echo .v1.tar ;;
    */zstd) echo .v1.tar+zstd ;;
    *) echo .v1.tar+gzip ;;
  esac
}

round_trip() { # mode form compression
  local name=$1-$2-$3 ref=$LARDER/cache/$1-$2:$3 types
  builder_start "a-$name"
  mapfile -t to < <(cache_to "$ref" "mode=$1,${form_attributes[$2]},compression=$3,force-compression=true")
  build "a-$name" "$CONTEXT" "${to[@]}" --output "type=local,dest=$WORK/made"
  builder_stop "a-$name"
  types=$(form_of "$ref")
  assert_eq "${types% *}" "${form_types[$2]}" "media type of $name"
  [[ ${types#* } == *"$(layer_suffix "$2" "$3")" ]] || fail "layers of $name are ${types#* }"

  import_and_compare "b-$name" "$ref"
  echo "$name: ok"
}

import_and_compare() { # builder ref
  mapfile -t from < <(cache_from "$2")
  builder_start "$1"
  build "$1" "$CONTEXT" "${from[@]}" --output "type=local,dest=$WORK/pulled"
  assert_all_cached $STEPS
  builder_stop "$1"
  diff -r --no-dereference "$WORK/made" "$WORK/pulled" >/dev/null || fail "$1 pulled other content than was pushed"
  rm -rf "$WORK/made" "$WORK/pulled"
}

inline_round_trip() {
  local ref=$LARDER/image/inline:latest
  builder_start a-inline
  build a-inline "$CONTEXT" --export-cache type=inline \
    --output "type=image,name=$ref,push=true" --output "type=local,dest=$WORK/made"
  builder_stop a-inline
  import_and_compare b-inline "$ref"
  echo "inline: ok"
}

larder_start
base_push

if [ -n "$FULL" ]; then
  for mode in min max; do
    for form in image index list; do
      for compression in gzip zstd estargz uncompressed; do
        round_trip $mode $form $compression
      done
    done
  done
else
  round_trip max image gzip
  round_trip min image gzip
  round_trip max index gzip
  round_trip min index zstd
  round_trip max list gzip
  round_trip min list uncompressed
  round_trip max image zstd
  round_trip max image estargz
  round_trip max image uncompressed
fi
inline_round_trip
