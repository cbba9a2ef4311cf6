# shellcheck shell=bash
# An image built with provenance and an SBOM is pushed like any other: its
# attestations arrive as artifacts beside the platform manifest, can be pulled
# with the image by digest, and are found as referrers of what they describe.

larder_start
base_push
builder_start a

scanner=$LARDER/tools/scanner:latest
build a "$CONTEXTS/scanner" --output "type=image,name=$scanner,push=true"

image=$LARDER/app/attested:1
build a "$CONTEXTS/chain" --output "type=image,name=$image,push=true" \
  --opt attest:provenance=mode=max --opt "attest:sbom=generator=$scanner"

# The index lists the image and, for no platform, what is attested of it.
manifest_of "$image" >index.json
platform=$(jq -r '.manifests[] | select(.platform.architecture == "amd64").digest' index.json)
attestation=$(jq -r --arg of "$platform" '.manifests[]
  | select(.annotations["vnd.docker.reference.type"] == "attestation-manifest"
       and .annotations["vnd.docker.reference.digest"] == $of).digest' index.json)
[ -n "$platform" ] && [ -n "$attestation" ] || fail "index without image or attestation: $(cat index.json)"

crane manifest "$LARDER/app/attested@$attestation" >attestation.json
assert_eq "$(jq -r '[.layers[].mediaType] | unique | join(",")' attestation.json)" \
  application/vnd.in-toto+json "media type of the statements"
assert_eq "$(jq -r '[.layers[].annotations["in-toto.io/predicate-type"]] | sort | join(",")' attestation.json)" \
  "https://slsa.dev/provenance/v1,https://spdx.dev/Document" "predicates"
for digest in $(jq -r '.layers[].digest' attestation.json); do
  crane blob "$LARDER/app/attested@$digest" | jq -e '.predicateType' >/dev/null || fail "statement $digest is no JSON"
done

# A manifest with a subject must be found from the subject.
if [ "$(jq -r '.subject.digest // ""' attestation.json)" = "$platform" ]; then
  curl -fsS "http://$LARDER/v2/app/attested/referrers/$platform" >referrers.json
  assert_eq "$(jq -r '.manifests[].digest' referrers.json)" "$attestation" "referrers of the image"
  note "attestation found as referrer"
else
  note "attestations have no subject in this version of BuildKit"
fi

crane pull --format=oci "$image" pulled
assert_eq "$(jq -r '.manifests[0].digest' pulled/index.json)" "sha256:$(sha256sum index.json | cut -d' ' -f1)" "pulled index"
[ -e "pulled/blobs/sha256/${attestation#*:}" ] || fail "attestation was not pulled with the image"
