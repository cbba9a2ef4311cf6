# shellcheck shell=bash
# stores: fs
# Everything in deploy/ is what its readers take it for: the chart, plain
# manifests, Compose file, units, alerts and dashboard pass their checkers, the
# checkers find what is planted, and a real Prometheus evaluates every expression
# against a real server.

readonly DEPLOY=$E2E/../../deploy
readonly KUBERNETES=1.30

# Helm renders for the version that it was built for, unless told.
render() { # values-file [options]
  local values=$1
  shift
  helm template cache "$DEPLOY/helm/larder" --kube-version $KUBERNETES --namespace builds -f "$values" "$@" 2>render.err || {
    cat render.err
    return 1
  }
}

# The Prometheus operator's kinds are not Kubernetes' own.
readonly NATIVE=(--set "serviceMonitor.enabled=false,prometheusRule.enabled=false")

# The files that the pod's secrets hold: the server reads them when it checks its configuration.
mkdir -p mounted/tls mounted/clients mounted/bucket
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=larder \
  -keyout mounted/tls/tls.key -out mounted/tls/tls.crt 2>/dev/null
cp mounted/tls/tls.crt mounted/clients/ca.crt
echo key | tee mounted/bucket/access_key_id >mounted/bucket/secret_access_key

kinds=0
for values in "$DEPLOY/helm/larder/values.yaml" "$DEPLOY"/helm/examples/*.yaml; do
  name=$(basename "$values" .yaml)
  helm lint --strict --kube-version $KUBERNETES "$DEPLOY/helm/larder" -f "$values" >lint.log 2>&1 || fail "$name: $(cat lint.log)"
  render "$values" "${NATIVE[@]}" >"$name.yaml"
  kubectl-validate --version $KUBERNETES "$name.yaml" >validate.log 2>&1 || fail "$name: $(cat validate.log)"
  render "$values" >"$name-all.yaml"
  deploylint operator <"$name-all.yaml"
  # The server takes the variables and the file that the chart gives it.
  mkdir -p "server-$name"
  deploylint server "server-$name" <"$name-all.yaml"
  mapfile -t variables < <(sed "s|^LARDER_CONFIG=.*|LARDER_CONFIG=$PWD/server-$name/larder.toml|; s|=/etc/larder/|=$PWD/mounted/|" "server-$name/env")
  env "${without[@]}" "${variables[@]}" "$LARDER_BIN" config check >config.log 2>&1 || fail "$name: $(cat config.log)"
  kinds=$((kinds + $(grep -c '^kind:' "$name-all.yaml")))
done
kubectl-validate --version $KUBERNETES "$DEPLOY/kubernetes/larder.yaml" >validate.log 2>&1 || fail "plain manifests: $(cat validate.log)"
note "chart: 3 values files and the defaults lint and render, $kinds resources are valid, and the server takes its configuration"
for kind in Deployment HorizontalPodAutoscaler PodDisruptionBudget ServiceMonitor PrometheusRule NetworkPolicy Ingress Secret; do
  grep -q "^kind: $kind$" bucket-all.yaml || fail "the values of a bucket render no $kind"
done
# One server of the chart's own defaults is that of the plain manifests.
assert_eq "$(grep -o 'mountPath: .*larder-data\|readOnlyRootFilesystem: true\|runAsUser: .*' single.yaml | sort)" \
  "$(grep -o 'mountPath: .*larder-data\|readOnlyRootFilesystem: true\|runAsUser: .*' "$DEPLOY/kubernetes/larder.yaml" | sort)" \
  "what chart and manifests say of the pod"

# A hot layer that would not fit into the limit of memory is refused with the limit that it needs.
! render "$DEPLOY/helm/larder/values.yaml" --set hotSize=4GiB >/dev/null 2>&1 || fail "a hot layer beyond the memory limit renders"
grep -q 'must be at least 4352Mi, and is 1Gi' render.err || fail "no advice: $(cat render.err)"
render "$DEPLOY/helm/larder/values.yaml" --set hotSize=4GiB,resources.limits.memory=5Gi >/dev/null || fail "$(cat render.err)"
render "$DEPLOY/helm/larder/values.yaml" --set hotSize=4GiB --set resources.limits=null >/dev/null || fail "$(cat render.err)"

# A bucket that is away takes no replica out of the endpoints; a disk that takes no writes does.
readiness() { sed -n '/readinessProbe:/{n;s/.*path: \([^,]*\),.*/\1/p}' "$1"; } # manifests
assert_eq "$(readiness bucket.yaml) $(readiness single.yaml) $(readiness "$DEPLOY/kubernetes/larder.yaml")" \
  "/healthz /readyz /readyz" "what readiness asks of a bucket's replica, of a server on a volume, and of that in plain manifests"

# Behind an ingress that has the certificate, clients are sent for tokens to the name that they know, by https.
tokens_at() { # what to set, or nothing: the realm that a client of the ingress is told
  local listen realm
  render "$DEPLOY/helm/examples/single.yaml" "$@" --set-string 'config=[[rules]]
identity="anonymous"
may=["push"]' >realm.yaml || fail "$(cat render.err)"
  rm -rf server-realm
  mkdir server-realm
  deploylint server server-realm <realm.yaml
  listen=127.0.0.1:$(free_port)
  mapfile -t variables < <(sed "s|^LARDER_CONFIG=.*|LARDER_CONFIG=$PWD/server-realm/larder.toml|" server-realm/env)
  spawn realm realm.log env "${without[@]}" "${variables[@]}" LARDER_SERVER_LISTEN="[\"$listen\"]" \
    LARDER_STORE_PATH="$WORK/server-realm/store" "$LARDER_BIN" serve
  eventually 60 curl -fsS -o /dev/null "http://$listen/healthz" || fail "$(cat realm.log)"
  curl -sS -D - -o /dev/null -H 'Host: cache.example.com' -H 'X-Forwarded-Proto: https' "http://$listen/v2/app/tags/list" >head
  stop_process realm
  sed -n 's/^www-authenticate: .*realm="\([^"]*\)".*/\1/p' head
}
readonly INGRESS=(--set "ingress.enabled=true,ingress.host=cache.example.com")
assert_eq "$(tokens_at "${INGRESS[@]}" --set ingress.tlsSecret=cache-tls)" https://cache.example.com/token "where tokens are asked for behind an ingress with TLS"
assert_eq "$(tokens_at "${INGRESS[@]}")" http://cache.example.com/token "where tokens are asked for behind an ingress without"
assert_eq "$(tokens_at "${INGRESS[@]}" --set ingress.tlsSecret=cache-tls --set publicUrl=https://cache.example.com:8443)" \
  https://cache.example.com:8443/token "where tokens are asked for at a name that was set"
note "ingress: clients ask for tokens under its name and scheme"

# The checkers see what is wrong.
sed 's/readOnlyRootFilesystem/readOnlyRootFileSystem/' single.yaml >planted.yaml
if kubectl-validate --version $KUBERNETES planted.yaml >/dev/null 2>&1; then fail "an unknown field is valid"; fi
if sed 's/jobLabel/jobLable/' bucket-all.yaml | deploylint operator >/dev/null 2>&1; then fail "an unknown field of a ServiceMonitor is valid"; fi
if render "$DEPLOY/helm/examples/single.yaml" --set replicas=2 >refused.log; then fail "two servers share a volume"; fi
grep -q 'a volume belongs to one server' refused.log || fail "refused for another reason: $(cat refused.log)"
if render "$DEPLOY/helm/examples/single.yaml" --set hotsize=1GiB >refused.log; then fail "an unknown value is accepted"; fi

deploylint compose "$DEPLOY/../docker-compose.yml"
note "compose: $(deploylint compose "$DEPLOY/../docker-compose.yml")"

# The unit, with the program where it is here.
mkdir units
sed "s|/usr/bin/larder|$LARDER_BIN|" "$DEPLOY/systemd/larder.service" >units/larder.service
cp "$DEPLOY/systemd/larder.socket" units/
systemd-analyze verify --man=no units/larder.service units/larder.socket >verify.log 2>&1 || fail "units: $(cat verify.log)"
[ ! -s verify.log ] || fail "units: $(cat verify.log)"
exposure=$(systemd-analyze security --offline=true units/larder.service 2>/dev/null | sed -n 's/.*exposure level for larder.service: \([0-9.]*\).*/\1/p')
note "unit: verified, exposure ${exposure:-unknown} of 10"
sed 's/^Type=notify/Type=notifi/' "$DEPLOY/systemd/larder.service" >units/larder.service
systemd-analyze verify --man=no units/larder.service >verify.log 2>&1 || true
grep -qi 'notifi' verify.log || fail "systemd-analyze does not see a wrong type"

# The socket is there before the program, which is started by who comes first.
activated=127.0.0.1:$(free_port)
mkdir activated
cd activated
spawn activated "$WORK/activated.log" systemd-socket-activate -l "$activated" env "${without[@]}" "$LARDER_BIN" serve
cd ..
eventually 60 grep -q Listening activated.log || fail "$(cat activated.log)"
curl -fsS -m 60 -o /dev/null "http://$activated/v2/" || fail "who comes first is not answered: $(cat activated.log)"
stop_process activated
note "socket activation: the first request, before there was a server, is answered"

promtool check config "$DEPLOY/prometheus/prometheus.yml" >promtool.log 2>&1 || fail "$(cat promtool.log)"
promtool test rules "$DEPLOY/prometheus/rules_test.yml" >promtool.log 2>&1 || fail "$(cat promtool.log)"
alerts=$(grep -c 'alert: ' "$DEPLOY/prometheus/rules.yml")
note "alerts: $alerts, each fires in its test and is silent in another"

# Every metric that anything here names is one that the server has.
readonly DASHBOARD=$DEPLOY/grafana/dashboards/larder.json
grep -rhoE '"larder_[a-z0-9_]+"' "$DEPLOY"/../src/metrics* | tr -d '"' | sort -u >known
{ cat "$DEPLOY/prometheus/rules.yml" && jq -r '.panels[].targets[]?.expr, .templating.list[].definition // empty' "$DASHBOARD"; } |
  grep -oE 'larder_[a-z0-9_]+' | sed -E 's/_(bucket|sum|count)$//' | sort -u >named
unknown=$(comm -13 known named)
[ -z "$unknown" ] || fail "no such metrics: $unknown"

# A Prometheus with our rules, and a server that has something to tell.
larder_start
seq 100 >blob
put_blob "$LARDER/app" blob
port=$(free_port)
mkdir prometheus
cp "$DEPLOY/prometheus/rules.yml" prometheus/
sed -e "s/\"larder-1:5000\", \"larder-2:5000\"/\"$LARDER\"/" -e 's/interval: 15s/interval: 1s/' "$DEPLOY/prometheus/prometheus.yml" >prometheus/prometheus.yml
spawn prometheus prometheus.log prometheus --config.file=prometheus/prometheus.yml --storage.tsdb.path="$WORK/tsdb" \
  --web.listen-address="127.0.0.1:$port"
ask() { curl -fsS -G "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1"; } # expression
scraped() { ask 'larder_blobs_stored_total{job="larder"}' | jq -e '.data.result[0].value[1] == "1"'; }
eventually 120 scraped || fail "Prometheus has not scraped the server: $(tail -5 prometheus.log)"
all_evaluated() { curl -fsS "http://127.0.0.1:$port/api/v1/rules" | jq -e '[.data.groups[].rules[].health] | all(. == "ok")'; }
eventually 120 all_evaluated || fail "$(curl -fsS "http://127.0.0.1:$port/api/v1/rules" | jq '[.data.groups[].rules[] | select(.health != "ok")]')"
asked=0
while read -r expression; do
  expression=$(sed -e 's/\$job/larder/g' -e 's/\$instance/.*/g' -e 's/\$__rate_interval/1m/g' -e 's/\$__range/1h/g' -e 's/\$price_of_[a-z]*/0.005/g' <<<"$expression")
  ask "$expression" >answer.json || fail "Prometheus does not understand: $expression"
  asked=$((asked + 1))
done < <(jq -r '.panels[].targets[]?.expr' "$DASHBOARD")
note "dashboard: $asked expressions answered by Prometheus $(prometheus --version 2>&1 | sed -n '1s/.*version \([^ ]*\).*/\1/p')"
assert_eq "$(jq '[.panels[].id] | length == (unique | length)' "$DASHBOARD")" true "panels have ids of their own"
assert_eq "$(jq '[.panels[] | select(.type != "row") | (.title == "" or (.targets | length) == 0)] | any' "$DASHBOARD")" false "panels without title or target"
stop_process prometheus
