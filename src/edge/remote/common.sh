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

# Fails unless `dir` is a directory of ours that nobody else can write to.
check_dir() {
  [ ! -L "$dir" ] || fail "$dir is a symbolic link, which is not followed"
  [ -d "$dir" ] || fail "$dir is not a directory"
  [ -O "$dir" ] || fail "$dir belongs to another user"
  mode=$(stat -c %a "$dir") || fail "the permissions of $dir cannot be read"
  case $mode in
    700 | ?700) ;;
    *) fail "$dir has permissions $mode instead of 700" ;;
  esac
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
