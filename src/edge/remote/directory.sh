# Directory: makes the remote directory or proves that it is ours, and that programs can be run in it.
# Variables: `configured`, `program` (a file name), `tag` (unique to this host and deployment).

# Fails, and takes away the directory that was made for nothing.
give_up() {
  [ -z "$made" ] || rmdir -- "$dir" 2>/dev/null
  fail "$1"
}

main() {
  name_dir
  parent=$(dirname -- "$dir")
  [ -d "$parent" ] || fail "there is no directory $parent to make $dir in"
  # Whoever may rename our directory could put his own in its place.
  rights=$(stat -L -c '%u %a' "$parent") || fail "the permissions of $parent cannot be read"
  case ${rights% *} in
    0 | "$me") ;;
    *) [ "$dir" = "$HOME" ] || fail "$parent belongs to another user, who could replace $dir" ;;
  esac
  case ${rights#* } in
    [1357]???) ;;
    *[2367]) fail "everybody may write to $parent, so that anybody could replace $dir" ;;
  esac
  made=
  if why=$(mkdir -m 700 -- "$dir" 2>&1); then
    made=yes
  else
    [ -e "$dir" ] || [ -L "$dir" ] || fail "$why"
  fi
  check_dir
  dir=$(cd -P -- "$dir" && pwd -P) || fail "$dir cannot be entered"
  try=$dir/try-$tag
  rm -f -- "$try"
  (printf '#!/bin/sh\nexit 0\n' >"$try" && chmod 700 "$try") 2>/dev/null || give_up "nothing can be written to $dir"
  "$try" >/dev/null 2>&1
  status=$?
  rm -f -- "$try"
  [ "$status" = 0 ] || give_up "programs cannot be run in $dir (status $status); it may be mounted noexec"
  say dir "$dir"
  df -Pk "$dir" 2>/dev/null | {
    read -r _
    read -r _ _ _ free _ && say free_kib "$free"
  }
  file=$dir/$program
  if [ -f "$file" ] && [ ! -L "$file" ] && [ -O "$file" ] && digest=$(sha256 "$file"); then
    chmod 700 "$file"
    say digest "$digest"
  fi
  say end directory
}
main </dev/null
