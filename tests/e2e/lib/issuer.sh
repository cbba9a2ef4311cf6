# shellcheck shell=bash
# An issuer of JWTs, as a CI system is one, and logins as `docker login` keeps
# them.

# Where JWTs say that they are from.
ISSUER=

# Its keys are files that a web server hands out.
issuer_start() {
  local dir=$WORK/issuer port
  port=$(free_port)
  ISSUER=http://127.0.0.1:$port
  mkdir -p "$dir/site/.well-known"
  printf '{"issuer":"%s","jwks_uri":"%s/jwks.json"}' "$ISSUER" "$ISSUER" >"$dir/site/.well-known/openid-configuration"
  issuer_rotate first
  spawn issuer "$dir/log" python3 -m http.server "$port" --bind 127.0.0.1 --directory "$dir/site"
  eventually 60 curl -fsS -o /dev/null "$ISSUER/jwks.json" || fail "the issuer did not get ready"
}

# Signs with another key from now on, and forgets the one before.
issuer_rotate() { # key-id
  local dir=$WORK/issuer modulus
  openssl genrsa -out "$dir/key.pem" 2048 2>/dev/null
  modulus=$(openssl rsa -in "$dir/key.pem" -noout -modulus | cut -d= -f2 | basenc -d --base16 | base64url)
  echo "$1" >"$dir/kid"
  printf '{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"%s","n":"%s","e":"AQAB"}]}' "$1" "$modulus" \
    >"$dir/site/jwks.json"
}

base64url() { base64 -w0 | tr '+/' '-_' | tr -d '='; }

# A JWT for the audience "larder" with these claims beside the usual ones.
jwt() { # seconds-to-live claims-as-json
  local dir=$WORK/issuer now signed
  now=$(date +%s)
  signed=$(printf '{"alg":"RS256","typ":"JWT","kid":"%s"}' "$(cat "$dir/kid")" | base64url)
  signed+=.$(jq -cn --arg iss "$ISSUER" --argjson now "$now" --argjson life "$1" --argjson more "$2" \
    '{iss: $iss, aud: "larder", sub: "job", iat: $now, exp: ($now + $life)} + $more' | tr -d '\n' | base64url)
  printf '%s.%s' "$signed" "$(printf %s "$signed" | openssl dgst -sha256 -sign "$dir/key.pem" -binary | base64url)"
}

# Keeps a name and a password where docker and BuildKit's clients look for them.
login() { # user password [host:port]
  printf '{"auths":{"%s":{"auth":"%s"}}}' "${3:-$LARDER}" "$(printf '%s:%s' "$1" "$2" | base64 -w0)" \
    >"$DOCKER_CONFIG/config.json"
}

# [[issuers]] for a configuration.
issuer_entry() {
  printf '[[issuers]]\nname = "ci"\nissuer = "%s"\naudience = "larder"\ncool_down = "1s"\n' "$ISSUER"
}
