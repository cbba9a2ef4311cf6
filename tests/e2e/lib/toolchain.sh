# shellcheck shell=bash
# An image in which Rust programs are built, for the server pushed to last: a
# Debian made by debootstrap, with the toolchain of this machine.

# TOOLCHAIN is the reference to build from.
TOOLCHAIN=

toolchain_push() {
  local root=$WORK/toolchain mirror sysroot suite
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  # The mirror that this machine installs from.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" | sed -n 1p)
  debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev "$suite" "$root" "${mirror:-http://deb.debian.org/debian}" \
    >"$WORK/debootstrap.log" 2>&1 || {
    tail -20 "$WORK/debootstrap.log"
    fail "debootstrap could not make a base"
  }
  rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/{doc,locale,man}
  # A network may have an authority of its own.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  sysroot=$(rustc --print sysroot)
  mkdir -p "$root/usr/local/bin" "$root/usr/local/lib/rustlib"
  cp "$sysroot"/bin/{cargo,rustc} "$root/usr/local/bin/"
  cp -a "$sysroot"/lib/*.so* "$root/usr/local/lib/"
  cp -a "$sysroot/lib/rustlib/$(uname -m)-unknown-linux-gnu" "$root/usr/local/lib/rustlib/"
  TOOLCHAIN=$LARDER/library/rust
  tar -C "$root" -cf "$WORK/toolchain.tar" .
  rm -rf "$root"
  crane append --oci-empty-base -f "$WORK/toolchain.tar" -t "$TOOLCHAIN:raw" >"$WORK/toolchain.log" 2>&1 &&
    crane mutate --set-platform "linux/$(dpkg --print-architecture)" -t "$TOOLCHAIN:latest" \
      --env PATH=/usr/local/bin:/usr/bin:/bin --env CARGO_HOME=/usr/local/cargo "$TOOLCHAIN:raw" >>"$WORK/toolchain.log" 2>&1 || {
    cat "$WORK/toolchain.log"
    fail "the toolchain image could not be pushed"
  }
  rm -f "$WORK/toolchain.tar"
}
