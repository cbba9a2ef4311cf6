# shellcheck shell=bash
# What the cases do with a cache reference beside building with it.

manifest_of() { # host:port/repo:tag -> raw bytes of what the tag serves
  local ref=$1 host repo tag
  host=${ref%%/*} repo=${ref#*/} tag=${ref##*:} repo=${repo%:*}
  curl -fsS "http://$host/v2/$repo/manifests/$tag" \
    -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json'
}

digest_of() { # host:port/repo:tag -> what HEAD answers
  local ref=$1 host repo
  host=${ref%%/*} repo=${ref#*/} repo=${repo%:*}
  curl -fsSI "http://$host/v2/$repo/manifests/${ref##*:}" -H 'Accept: */*' |
    tr -d '\r' | sed -nE 's/^docker-content-digest: *//Ip'
}

# The cacheconfig, whichever of the three forms the manifest has.
config_of() { # ref
  local ref=$1 repo digest
  repo=${ref#*/} repo=${repo%:*}
  digest=$(manifest_of "$ref" | jq -r '(.config // (.manifests[] | select(.mediaType == "application/vnd.buildkit.cacheconfig.v0"))).digest')
  curl -fsSL "http://${ref%%/*}/v2/$repo/blobs/$digest"
}

# One line: form of the manifest and the media types of its layers.
form_of() { # ref
  manifest_of "$1" | jq -r '.mediaType + " " + (
      [(.layers // .manifests)[].mediaType | select(. != "application/vnd.buildkit.cacheconfig.v0")] | unique | join(","))'
}

# Uploads a blob and a manifest without a client of its own mind.
put_blob() { # host:port/repo file -> digest
  local host=${1%%/*} repo=${1#*/} digest location
  digest=sha256:$(sha256sum "$2" | cut -d' ' -f1)
  location=$(curl -fsS -D - -o /dev/null -X POST "http://$host/v2/$repo/blobs/uploads/" -H 'Content-Length: 0' |
    tr -d '\r' | sed -nE 's/^location: *//Ip')
  [[ $location == http* ]] || location=http://$host$location
  if [[ $location == *\?* ]]; then location+="&digest=$digest"; else location+="?digest=$digest"; fi
  curl -fsS -o /dev/null -X PUT -T "$2" -H 'Content-Type: application/octet-stream' "$location"
  echo "$digest"
}

put_manifest() { # ref file
  local host=${1%%/*} repo=${1#*/}
  repo=${repo%:*}
  curl -fsS -o /dev/null -X PUT -T "$2" "http://$host/v2/$repo/manifests/${1##*:}" \
    -H "Content-Type: $(jq -r .mediaType "$2")"
}

# Pushes a cacheconfig under a copy of a manifest, whose layers must be there.
put_cache() { # ref manifest-file config-file
  local digest
  digest=$(put_blob "${1%:*}" "$3")
  jq -c --arg digest "$digest" --argjson size "$(stat -c %s "$3")" \
    '.config.digest = $digest | .config.size = $size' "$2" | tr -d '\n' >"$3.manifest"
  put_manifest "$1" "$3.manifest"
}

# A context in which every target tN has one step of its own, and `all` copies
# what each of them made: it is CACHED only when every one of them is.
crowd_context() { # directory targets command-of-a-step
  local n
  mkdir -p "$1"
  {
    echo "ARG BASE"
    for ((n = 1; n <= $2; n++)); do
      echo "FROM \${BASE} AS t$n"
      echo "RUN echo $n > /made${3:+ && $3}"
    done
    echo "FROM scratch AS all"
    for ((n = 1; n <= $2; n++)); do echo "COPY --from=t$n /made /$n"; done
  } >"$1/Dockerfile"
}
