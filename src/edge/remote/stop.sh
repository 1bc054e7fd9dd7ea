# Stop: cleans a remote directory. Variables: those of `clean.sh`.
main() {
  clean
  say end stop
}
main </dev/null
