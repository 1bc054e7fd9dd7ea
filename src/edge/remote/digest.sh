# Digest: the digest of the file `file`; no answer but the end where no tool can tell it.
main() {
  [ -f "$file" ] && [ ! -L "$file" ] || fail "$file is not there"
  if sha256 "$file"; then say digest "$digest"; fi
  say end digest
}
main </dev/null
