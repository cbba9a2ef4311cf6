# shellcheck shell=bash
# nginx in front of several servers, as docs/operation.md has it.

BALANCER=

balancer_start() { # host:port...
  local dir=$WORK/balancer attempt
  mkdir -p "$dir"
  for attempt in 1 2 3; do
    BALANCER=127.0.0.1:$(free_port)
    balancer_config "$dir" "$@" >"$dir/nginx.conf"
    spawn balancer "$dir/log" nginx -c "$dir/nginx.conf" -p "$dir" -e "$dir/error.log"
    if eventually 30 curl -fsS -m 5 -o /dev/null "http://$BALANCER/readyz"; then return 0; fi
    stop_process balancer
    echo "port of $BALANCER was taken, attempt $attempt"
  done
  tail -20 "$dir/error.log"
  fail "nginx did not get ready"
}

# The example that operators are given, with the servers and the paths of this case.
balancer_config() { # directory host:port...
  local dir=$1 servers
  shift
  servers=$(printf 'server %s max_fails=1 fail_timeout=2s;\\n' "$@")
  cat <<NGINX
daemon off;
pid $dir/pid;
worker_processes 1;
events { worker_connections 1024; }
NGINX
  echo "http {"
  printf '%s_temp_path %s;\n' client_body "$dir/body" proxy "$dir/proxy" fastcgi "$dir/f" uwsgi "$dir/u" scgi "$dir/s"
  echo "access_log off;"
  sed -e "s/^ *server larder-.*//" -e "s/^upstream larder {/&\n$servers/" -e "s/listen .*;/listen $BALANCER;/" \
    "$E2E/../../deploy/nginx.conf"
  echo "}"
}
