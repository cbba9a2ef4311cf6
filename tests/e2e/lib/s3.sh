# shellcheck shell=bash
# The S3 server behind Larder: versitygw over a folder, in which an object is a
# file under its key. Started by the first server of a case that needs it.

readonly S3_BUCKET=larder S3_KEY=larder-e2e S3_SECRET=a-secret-of-no-worth
# S3 is its host:port, S3_VIA what Larder is told: a proxy in front, when set.
S3='' S3_VIA=''
# How it is started, and what Larder is told beside.
S3_SCHEME=http S3_OPTIONS=()
S3_KEYS="access_key_id = \"$S3_KEY\"
secret_access_key = \"$S3_SECRET\"" S3_MORE=''

s3_dir() { echo "$WORK/s3"; }

# An empty bucket at a fresh server.
s3_start() {
  local dir attempt
  dir=$(s3_dir)
  mkdir -p "$dir/root/$S3_BUCKET"
  for attempt in 1 2 3; do
    S3=127.0.0.1:$(free_port)
    if s3_launch; then return 0; fi
    echo "S3 server did not start on $S3, attempt $attempt"
  done
  tail -20 "$dir/log"
  fail "the S3 server did not get ready"
}

# Starts the server on the folder and the port it had before.
s3_launch() {
  local dir
  dir=$(s3_dir)
  # Without --keep-alive it closes the connection after every answer.
  spawn s3 "$dir/log" env ROOT_ACCESS_KEY_ID=$S3_KEY ROOT_SECRET_ACCESS_KEY=$S3_SECRET \
    versitygw --port "$S3" --keep-alive --quiet --health /health "${S3_OPTIONS[@]}" posix "$dir/root"
  eventually 60 s3_ready_or_dead && s3_ready
}

s3_ready() { curl -kfsS -m 5 -o /dev/null "$S3_SCHEME://$S3/health"; }
s3_ready_or_dead() { not is_running s3 || s3_ready; }

# The file in which the server keeps an object.
s3_file() { echo "$(s3_dir)/root/$S3_BUCKET/$1"; }

# A signed request of one's own.
s3_curl() { # key [curl options]
  local key=$1
  shift
  curl -fsS --aws-sigv4 aws:amz:us-east-1:s3 --user "$S3_KEY:$S3_SECRET" \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "http://${S3_VIA:-$S3}/$S3_BUCKET/$key" "$@"
}

# The configuration of a server whose store is below a prefix of the bucket.
s3_config() { # prefix
  cat <<TOML
[store.s3]
bucket = "$S3_BUCKET"
prefix = "$1"
endpoint = "$S3_SCHEME://${S3_VIA:-$S3}"
$S3_KEYS
$S3_MORE
TOML
}

# What crossed the proxy between Larder and the bucket, one line a kind of call,
# with how often: "11 HEAD blob". Left out is what the server does by itself:
# probes, and looks for leftovers of uploads, for what is condemned and for what is in quarantine.
s3_calls() {
  proxy_settle
  jq -r '
    def kind: [scan("/(blobs|manifests|tags|pushes|views|used|referrers)/")] | last // ["meta"] | .[0];
    select((.path + .query) | test("/[.]larder|(uploads|condemned|quarantine)%2F|[?&]?uploads=") | not)
    | .method + (if .query | test("list-type") then " list of " + (.query | @uri "\(.)" | gsub("%252F|%2F"; "/") | kind)
      else " " + (.path | kind) end)' "$PROXY_LOG" | sort | uniq -c | sed 's/^ *//'
}

s3_call_count() { s3_calls | awk '{ sum += $1 } END { print sum + 0 }'; }
