# Prepare: tells what this host is, makes the remote directory or proves that it is ours, and looks for the program.
#
# Variables: `loader`, the program's, if it has one; `machines`, patterns of what `uname -m` says where it runs: on
# others nothing but the facts is told; `configured`; `program`, a file name; `wanted`, its digest; `tools`, of
# which an upload makes use where they are; `tag`, unique to this host and deployment.

tell_facts() {
  arch=$(uname -m)
  say arch "$arch"
  [ -n "$loader" ] || return 0
  libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
  if [ -z "$libc" ]; then
    for file in /lib/ld-musl-*; do
      [ ! -e "$file" ] || libc=musl
    done
  fi
  say libc "$libc"
  if [ -e "$loader" ]; then say loader yes; fi
}

# Tells whether the program is one for this machine.
suits() {
  # The patterns are none of file names.
  set -f
  for machine in $machines; do
    case $arch in $machine) set +f && return ;; esac
  done
  set +f
  return 1
}

# Fails, and takes away the directory that was made for nothing.
give_up() {
  [ -z "$made" ] || rmdir -- "$dir" 2>/dev/null
  fail "$1"
}

# Makes `dir`, unless it is there, and sees to it that it is for us alone.
make_dir() {
  [ -d "${dir%/*}/" ] || fail "there is no directory ${dir%/*} to make $dir in"
  true_dir || fail "${dir%/*} cannot be entered"
  check_way || fail "$why"
  made=
  if [ ! -d "$dir" ]; then
    if why=$(mkdir -m 700 -- "$dir" 2>&1); then
      made=yes
    else
      [ -e "$dir" ] || [ -L "$dir" ] || fail "$why"
    fi
  fi
  check_dir || fail "$why"
  case $mode in
    700 | ?700) ;;
    *) fail "$dir has permissions $mode instead of 700" ;;
  esac
}

# Tells whether the program is in `dir`, whole.
find_program() {
  file=$dir/$program
  [ -e "$file" ] || [ -L "$file" ] || return
  # Whoever has put it there could do so when the directory was not for us alone yet.
  [ -f "$file" ] && [ ! -L "$file" ] && [ -O "$file" ] || fail "$file is not a file of ours"
  sha256 "$file" || return
  say digest "$digest"
  [ "$digest" = "$wanted" ] || return
  [ -x "$file" ] || chmod 700 "$file"
}

# Proves that programs can be run in `dir`, and tells what there is for an upload.
try_dir() {
  try=$dir/try-$tag
  rm -f -- "$try"
  (printf '#!/bin/sh\nexit 0\n' >"$try" && chmod 700 "$try") 2>/dev/null || give_up "nothing can be written to $dir"
  "$try" >/dev/null 2>&1
  status=$?
  rm -f -- "$try"
  [ "$status" = 0 ] || give_up "programs cannot be run in $dir (status $status); it may be mounted noexec"
  df -Pk "$dir" 2>/dev/null | {
    read -r _
    read -r _ _ _ free _ && say free_kib "$free"
  }
  for tool in $tools; do
    if command -v "$tool" >/dev/null 2>&1; then say tool "$tool"; fi
  done
}

main() {
  tell_facts
  if suits; then
    say step directory
    name_dir
    make_dir
    say dir "$dir"
    # One that is there has been tried.
    find_program || try_dir
  fi
  say end prepare
}
main </dev/null
