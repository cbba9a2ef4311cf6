# Three targets of one Dockerfile that share one cache reference.
variable "REGISTRY" {}
variable "BASE" {}

group "default" {
  targets = ["x", "y", "z"]
}

target "_shared" {
  context    = "."
  args       = { BASE = BASE }
  cache-to   = ["type=registry,ref=${REGISTRY}/bake/cache:shared,mode=max"]
  cache-from = ["type=registry,ref=${REGISTRY}/bake/cache:shared"]
}

target "x" {
  inherits = ["_shared"]
  target   = "t1"
}

target "y" {
  inherits = ["_shared"]
  target   = "t2"
}

target "z" {
  inherits = ["_shared"]
  target   = "t3"
}
