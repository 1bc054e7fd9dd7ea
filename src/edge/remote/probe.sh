# Probe: the facts of this host; what it has no tool for is left out. Changes nothing.
#
# Variables: `wanted`, where the remote directory will be: free space is told for it, or for what there is of it.

# Says each line of its input under the name $1.
say_lines() {
  while read -r line; do say "$1" "$line"; done
}

near_dir() {
  dir=$wanted
  case $dir in
    '~' | '$HOME') dir=$HOME ;;
    '~/'*) dir=$HOME/${dir#??} ;;
    '$HOME/'*) dir=$HOME/${dir#??????} ;;
  esac
  while [ -n "$dir" ] && [ ! -d "$dir" ]; do
    case $dir in
      /*/* | [!/]*/*) dir=${dir%/*} ;;
      /*) dir=/ ;;
      *) dir=. ;;
    esac
  done
}

main() {
  PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
  near_dir
  say arch "$(uname -m)"
  say cores "$(getconf _NPROCESSORS_ONLN || nproc --all || grep -c '^processor' /proc/cpuinfo || sysctl -n hw.ncpu)"
  if [ -r /proc/meminfo ]; then
    while read -r key value _; do
      case $key in MemTotal:) say memory_kib "$value" && break ;; esac
    done </proc/meminfo
  fi
  if [ -r /proc/loadavg ]; then
    read -r load _ </proc/loadavg
    say load "$load"
  fi
  say libc "$(getconf GNU_LIBC_VERSION)"
  ldd --version 2>&1 | say_lines ldd
  df -P -k "$dir" | say_lines free
  say home "$(stat -f -c %T "$HOME")"
  df -P -k "$HOME" | say_lines home_df
  say end probe
}
main </dev/null 2>/dev/null
