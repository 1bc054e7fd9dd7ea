# Start: cleans a remote directory of older workers and starts one there.
#
# Variables: those of `clean.sh`; `new`, the file name of the new worker's directory; `arguments`, words for `serve`;
# `orders`, for its standard input.

# Where `printf` is no part of the shell, what it prints would be on a command line, for all to see.
give_orders() {
  case $(command -v printf) in
    printf) printf '%s\n' "$orders" ;;
    *) echo "$orders" ;;
  esac
}

main() {
  say step stop
  clean
  say step start
  give_orders | "$dir/$program" serve --detach "$dir/$new" $arguments || exit
  say end start
}
main </dev/null
