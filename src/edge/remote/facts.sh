# Facts: whether this host can run the program, whose loader is `loader`. Changes nothing.
main() {
  say arch "$(uname -m)"
  libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
  if [ -z "$libc" ]; then
    for file in /lib/ld-musl-*; do
      [ ! -e "$file" ] || libc=musl
    done
  fi
  say libc "$libc"
  if [ -z "$loader" ] || [ -e "$loader" ]; then say loader yes; else say loader no; fi
  say end facts
}
main </dev/null
