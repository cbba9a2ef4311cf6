# shellcheck shell=bash
# stores: fs
# form: full
# `docker compose up` with our file: two servers over one bucket behind nginx, seen
# by Prometheus. What one builder caches another one finds, also while one of the
# servers is stopped. Under the names of the images are stand-ins made of this
# machine's programs; Grafana, for which there is none, is left out.

readonly FILE=$E2E/../../docker-compose.yml
# The file's own.
readonly ENTRY=127.0.0.1:5000 PROMETHEUS=127.0.0.1:9090

docker_isolated --registry-mirror "http://$ENTRY"
ln -s "$COMPOSE" "$DOCKER_CONFIG/cli-plugins/docker-compose"
note "Docker $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"

# An image of a program and busybox, with what the real one is configured to do.
stand_in() { # image program|'' instructions...
  local root=$WORK/image image=$1 program=$2 instruction changes=(--change 'ENV PATH=/usr/bin:/bin')
  shift 2
  image_root "$root" ${program:+"$program"}
  for instruction in "$@"; do changes+=(--change "$instruction"); done
  tar -C "$root" -xf "$(base_rootfs)"
  mkdir -p "$root/run" "$root"/var/{lib,log}/nginx "$root/etc/nginx/conf.d"
  echo root:x:0:0::/root:/bin/sh >"$root/etc/passwd"
  echo root:x:0: >"$root/etc/group"
  echo 'user root; daemon off; error_log stderr; events {} http { access_log off; include conf.d/*.conf; }' >"$root/etc/nginx/nginx.conf"
  tar -C "$root" -c . | docker import "${changes[@]}" - "$image" >/dev/null
  rm -rf "$root"
}
mapfile -t images < <(sed -n 's/^ *image: *//p' "$FILE")
for image in "${images[@]}"; do
  case $image in
    larder)
      stand_in "$image" "$LARDER_BIN:larder" 'WORKDIR /var/lib' "ENV LARDER_SERVER_LISTEN='[\"0.0.0.0:5000\"]'" \
        'ENTRYPOINT ["/usr/bin/larder"]' 'CMD ["serve"]'
      ;;
    */nginx:*) stand_in "$image" nginx 'CMD ["nginx", "-c", "/etc/nginx/nginx.conf"]' ;;
    */versitygw:*) stand_in "$image" versitygw 'ENTRYPOINT ["versitygw"]' ;;
    */busybox:*) stand_in "$image" '' 'CMD ["sh"]' ;;
    */prom/prometheus:*)
      stand_in "$image" prometheus \
        'CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
      ;;
    */grafana:*) ;;
    *) fail "there is no stand-in for $image" ;;
  esac
done

cat >without-grafana.yml <<'YAML'
services:
  grafana:
    profiles: [left-out]
YAML
compose() { docker compose --progress plain --project-directory "$(dirname "$FILE")" -f "$FILE" -f without-grafana.yml "$@"; }
compose up --detach --no-build --pull never --wait || {
  compose ps --all
  compose logs --tail 20
  fail "docker compose up failed"
}
assert_eq "$(compose ps --services --status running | sort | xargs)" "larder-1 larder-2 nginx prometheus s3" "what runs"
assert_eq "$(docker compose ls --format json | jq -r '.[].Name')" larder "name of the project"
assert_eq "$(compose ps --format json nginx | jq -r .Health)" healthy "health of nginx"

seen() { # instances that Prometheus has scraped
  docker_inside curl -fsSG "http://$PROMETHEUS/api/v1/query" --data-urlencode 'query=up{job="larder"} == 1' |
    jq -r '[.data.result[].metric.instance] | sort | join(" ")'
}
both_seen() { [ "$(seen)" = "larder-1:5000 larder-2:5000" ]; }
eventually 60 both_seen || fail "Prometheus sees only: $(seen)"

# Clients that run beside the Engine.
crane() { docker_inside "$(type -P crane)" "$@"; }
LARDER=$ENTRY
base_push
builder_image_push
docker buildx create --name first --driver docker-container --driver-opt network=host >/dev/null
docker buildx create --name second --driver docker-container --driver-opt network=host >/dev/null
cache=type=registry,ref=$ENTRY/app:cache
compose_build() { # builder
  BUILD_LOG=$(new_build_log "$1")
  docker buildx build --builder "$1" --progress rawjson --build-arg BASE="$BASE" \
    --cache-to "$cache,mode=max" --cache-from "$cache" "$CONTEXTS/chain" 2>"$BUILD_LOG" || {
    build_errors
    fail "the build of $1 failed"
  }
}
compose_build first
assert_cached 0 4
compose stop larder-1
compose_build second
assert_all_cached 4
docker buildx rm first second
assert_ne "$(docker_inside curl -fsS "http://$ENTRY/metrics" | grep -c '^larder_')" 0 "metrics through nginx"
compose down --volumes
docker_stop
