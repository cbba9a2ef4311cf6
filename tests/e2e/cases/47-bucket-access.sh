# shellcheck shell=bash
# stores: s3
# However a bucket is reached: behind a certificate of one's own, through a proxy,
# with credentials from wherever the SDK looks for them.

# An authority, and a certificate that it gave to the S3 server.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=a test' \
  -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=s3' -keyout s3.key -out s3.csr 2>/dev/null
openssl x509 -req -in s3.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
  -extfile <(echo 'subjectAltName=IP:127.0.0.1') -out s3.pem 2>/dev/null
S3_SCHEME=https S3_OPTIONS=(--cert "$WORK/s3.pem" --key "$WORK/s3.key")
s3_start

KEYS_ID=$S3_KEY KEYS_SECRET=$S3_SECRET spawn keys keys.out python3 "$E2E/lib/keys.py" keys.port keys.log
eventually 60 test -s keys.port || fail "keys.py did not start"
keys=127.0.0.1:$(cat keys.port)
head -c 9000000 /dev/urandom >blob
: >none

# What the server has beside its configuration is exported by the subshell that calls.
works() { # instance
  local digest
  INSTANCE=$1 STORE=$1 larder_start
  digest=$(put_blob "$LARDER/any" blob)
  assert_eq "$(curl -fsS "http://$LARDER/v2/any/blobs/$digest" | sha256sum | cut -d' ' -f1)" "${digest#*:}" "$1: the blob"
  # Here, for what comes behind has other surroundings.
  larder_check_all || fail "$1: the store is not sound"
  INSTANCE=$1
  rm -r "$(larder_dir)"
  note "$1: a blob goes in and comes out"
}

# Without the authority, the reason is said at once.
if (S3_MORE='' larder_start) >/dev/null 2>&1; then fail "an unknown certificate was trusted"; fi
grep -q -i 'certificate' "$(larder_log)" || {
  cat "$(larder_log)"
  fail "the log does not say that it is the certificate"
}
rm -r "$(larder_dir)"

S3_MORE="ca_file = \"$WORK/ca.pem\""
(works ca-file)
(export HTTPS_PROXY=http://$keys && works proxy)
grep -q "CONNECT $S3" keys.log || fail "the proxy was not asked"
: >keys.log
(export HTTPS_PROXY=http://$keys NO_PROXY=127.0.0.1 && works no-proxy)
assert_eq "$(cat keys.log)" "" "requests at a proxy that was not to be asked"

# The chain of the SDK; what this machine has of its own is out of sight.
S3_KEYS=''
export AWS_CONFIG_FILE=$WORK/none AWS_SHARED_CREDENTIALS_FILE=$WORK/none AWS_EC2_METADATA_DISABLED=true
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
(export AWS_ACCESS_KEY_ID=$S3_KEY AWS_SECRET_ACCESS_KEY=$S3_SECRET && works environment)
printf '[ci]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$S3_KEY" "$S3_SECRET" >profile
(export AWS_SHARED_CREDENTIALS_FILE=$WORK/profile AWS_PROFILE=ci && works profile)
(export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://$keys/container && works container)
(
  export AWS_EC2_METADATA_SERVICE_ENDPOINT=http://$keys AWS_EC2_METADATA_DISABLED=false
  works instance
)
printf a-web-token >token
(
  export AWS_WEB_IDENTITY_TOKEN_FILE=$WORK/token AWS_ROLE_ARN=arn:aws:iam::123456789012:role/larder
  export AWS_ENDPOINT_URL_STS=http://$keys
  works web-identity
)
grep -q 'web identity' keys.log || fail "STS was not asked"
printf %s "$S3_KEY" >id
printf '%s\n' "$S3_SECRET" >secret
S3_KEYS="access_key_id_file = \"$WORK/id\"
secret_access_key_file = \"$WORK/secret\""
(works files)
