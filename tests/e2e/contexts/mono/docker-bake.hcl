variable "REGISTRY" {}
variable "BASE" {}

group "default" {
  targets = ["services", "assets"]
}

group "services" {
  targets = ["api", "worker"]
}

function "cache" {
  params = [name]
  result = "type=registry,ref=${REGISTRY}/mono/cache:${name}"
}

target "_common" {
  context = "."
  args = { BASE = BASE }
}

target "api" {
  inherits   = ["_common"]
  target     = "api"
  platforms  = ["linux/amd64", "linux/386"]
  cache-from = [cache("api")]
  cache-to   = ["${cache("api")},mode=max"]
}

target "worker" {
  name       = "worker-${queue}"
  matrix     = { queue = ["fast", "slow"] }
  inherits   = ["_common"]
  target     = "worker"
  platforms  = ["linux/amd64", "linux/386"]
  args       = { QUEUE = queue }
  cache-from = [cache("worker-${queue}")]
  cache-to   = ["${cache("worker-${queue}")},mode=max"]
}

target "assets" {
  inherits   = ["_common"]
  target     = "assets"
  platforms  = ["linux/arm64"]
  cache-from = [cache("assets")]
  cache-to   = ["${cache("assets")},mode=max"]
}
