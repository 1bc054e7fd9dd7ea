# Common: what the scripts that run on a host share. Plain POSIX shell and the tools of any Linux, busybox included.
#
# The variables that a script needs are set above this text. An answer is a line `mapreduce:name=value` on standard
# output, so that what a login shell prints by itself is not mistaken for one. A script of more than one step says
# which it has come to. Every process costs a millisecond, on each host, so what the shell can do itself it does.
umask 077
LC_ALL=C
PATH=${PATH:-/bin}:/usr/bin:/bin
export LC_ALL PATH
me=$(id -u)

say() {
  case $2 in
    *[[:cntrl:]]*) set -- "$1" "$(printf %s "$2" | tr '\n\r' '  ')" ;;
  esac
  printf 'mapreduce:%s=%s\n' "$1" "$2"
}

fail() {
  say failed "$1"
  exit 3
}

# Sets `dir` to the remote directory, from `configured`.
name_dir() {
  dir=$configured
  case $dir in
    '') dir=${TMPDIR:-/tmp}/mapreduce-$me ;;
    '~' | '$HOME') dir=$HOME ;;
    '~/'*) dir=$HOME/${dir#??} ;;
    '$HOME/'*) dir=$HOME/${dir#??????} ;;
  esac
  # A slash at the end would have a symbolic link followed.
  while [ "$dir" != "${dir%/}" ]; do dir=${dir%/}; done
  case $dir/ in
    /*/) ;;
    *) fail "the remote directory must be absolute or begin with ~/, not '$configured'" ;;
  esac
  case $dir/ in
    */./* | */../*) fail "the remote directory must not have . or .. in it: '$configured'" ;;
  esac
}

# Sets `dir` to its path without symbolic links, `dir` itself aside. Fails where there is no directory for it to lie in.
true_dir() {
  parent=$(cd -P -- "${dir%/*}/" 2>/dev/null && pwd -P) || return
  dir=${parent%/}/${dir##*/}
}

# Tells whether nobody but us and root can put something else in the place of `dir`, a true path; if not, `why` says who
# can. The home directory is where it ends, as with sshd: whoever can replace that can log in as us.
check_way() {
  home=$(cd -P -- "${HOME:-/}" 2>/dev/null && pwd -P)
  way=$dir
  set --
  until [ -z "$way" ] || [ "$way" = "$home" ]; do
    way=${way%/*}
    set -- "$@" "${way:-/}"
  done
  [ $# -gt 0 ] || return 0
  why="the permissions of $1 cannot be read"
  rights=$(stat -c %u:%g:%a -- "$@") || return
  for right in $rights; do
    group=${right#*:}
    group=${group%:*}
    case ${right%%:*} in
      0 | "$me") ;;
      *) why="$1 belongs to another user, who could replace $dir" && return 1 ;;
    esac
    case ${right##*:} in
      # Where the sticky bit is, only the owner of an entry may rename it.
      [1357]???) ;;
      *[2367]) why="everybody may write to $1, so that anybody could replace $dir" && return 1 ;;
      *[2367]?) is_private "$group" || {
        why="the group $group may write to $1, so that its members could replace $dir"
        return 1
      } ;;
    esac
    shift
  done
}

# Tells whether the group $1 is root's, or one that a user has for himself alone, by its name.
is_private() {
  [ "$1" = 0 ] || { [ "$1" = "$(id -g)" ] && [ "$(id -gn)" = "$(id -un)" ]; }
}

# Tells whether `dir`, a true path, is a directory of ours; if not, `why` says what it is.
#
# A name may lead to something else from one look to the next. So what counts is what is seen from inside: where the
# shell has gone to is one directory, whatever its name does meanwhile. If that is ours, and of the right path, then
# nobody else can rename it any more, once `check_way` holds.
check_dir() {
  if [ -L "$dir" ]; then
    why="$dir is a symbolic link, which is not followed$(whose)"
  elif [ ! -d "$dir" ]; then
    why="$dir is not a directory but $(kind)$(whose)"
  elif [ ! -O "$dir" ]; then
    why="$dir belongs to another user$(whose)"
  elif ! cd -P -- "$dir" 2>/dev/null; then
    why="$dir cannot be entered"
  else
    at=$(readlink /proc/self/cwd || pwd -P)
    why="somebody puts something else in the place of $dir at this moment"
    [ "$at" = "$dir" ] && [ -O . ] && mode=$(stat -c %a .) && why=
    cd /
    [ -z "$why" ] && return
  fi
  return 1
}

# Prints what `dir` is that is no directory.
kind() {
  if [ -f "$dir" ]; then
    echo 'a file'
  elif [ -p "$dir" ]; then
    echo 'a named pipe'
  elif [ -S "$dir" ]; then
    echo 'a socket'
  else
    echo 'something else'
  fi
}

# Prints whose `dir` is, if it is not ours.
whose() {
  owner=$(stat -c '%u %U' -- "$dir" 2>/dev/null) || return
  [ "${owner%% *}" = "$me" ] || echo "; it is that of user ${owner#* } (${owner%% *})"
}

# Sets `digest` to that of the file $1; fails where no tool can tell it. The first tool is the fastest where it is
# there: it uses the processor's own instructions for it.
sha256() {
  for tool in 'openssl dgst -sha256 -r' sha256sum 'shasum -a 256'; do
    command -v "${tool%% *}" >/dev/null 2>&1 || continue
    digest=$($tool <"$1" 2>/dev/null)
    digest=${digest%% *}
    [ "${#digest}" -ne 64 ] || return 0
  done
  digest=
  return 1
}
