# shellcheck shell=bash
# Clients that dribble over TLS, and heads that are too long: others are served
# meanwhile, what they cost is bounded, and in the end they are gone.

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=larder \
  -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem 2>/dev/null
WITH_TLS=1
larder_start '[tls]' "cert = \"$WORK/cert.pem\"" "key = \"$WORK/key.pem\"" '[limits]' 'keep_alive = "20s"'
pid=$(pid_of larder-main)
rss() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status"; }
ask() { curl -s --cacert cert.pem -m 10 -o /dev/null -w '%{http_code} %{time_total}\n' "$@" "https://$SECURE/v2/"; }

handshakes=200 heads=500 head_bytes=80000
before=$(rss)
spawn slow "$WORK/slow.out" python3 "$E2E/lib/slow_clients.py" "${SECURE##*:}" $handshakes $heads $head_bytes 35
eventually 180 grep -q open slow.out || fail "the slow clients did not get through"
for ((n = 0; n < 100; n++)); do ask; done >answers
during=$(rss)
assert_eq "$(cut -d' ' -f1 answers | sort | uniq -c | tr -s ' ')" " 100 200" "answers while others dribble"
eventually 180 not is_running slow || fail "the slow clients go on"
read -r shaken cut < <(tail -1 slow.out)
assert_eq "$shaken/$cut" "$handshakes/$heads" "handshakes and heads that were cut"
note "$heads heads of $head_bytes bytes and $handshakes handshakes that never end: 100 of 100 others answered, the slowest in $(cut -d' ' -f2 answers | sort -n | tail -1) s; memory $before -> $during MiB; all cut"
assert_at_most $((during - before)) 160 "MiB for slow clients"

# A head of 200 KiB: refused in either version of HTTP, for as long as somebody likes.
head -c 200000 /dev/zero | tr '\0' a >filler
printf 'X-Filler: %s' "$(cat filler)" >header
for way in --http1.1 --http2; do
  for ((n = 0; n < 100; n++)); do ask $way -H @header || true; done >refused.$way
  not grep -q '^200' "refused.$way" || fail "a head of 200 kB was taken"
done
for ((n = 0; n < 100; n++)); do ask; done >answers
assert_eq "$(cut -d' ' -f1 answers | sort | uniq -c | tr -s ' ')" " 100 200" "answers after all that"
note "200 heads of 200 kB: $(cat refused.* | cut -d' ' -f1 | sort | uniq -c | tr -s ' \n' ' '), memory $(rss) MiB"
assert_at_most $(($(rss) - before)) 160 "MiB after all that"
