# Common: what the scripts that run on a host share. Plain POSIX shell and the tools of any Linux, busybox included.
#
# The variables that a script needs are set above this text. An answer is a line `mapreduce:name=value` on standard
# output, so that what a login shell prints by itself is not mistaken for one.
umask 077
LC_ALL=C
PATH=${PATH:-/bin}:/usr/bin:/bin
export LC_ALL PATH
me=$(id -u)

say() {
  printf 'mapreduce:%s=%s\n' "$1" "$(printf %s "$2" | tr '\n\r' '  ')"
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

# Prints the digest of the file $1; fails where no tool can tell it.
sha256() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum <"$1" | cut -c 1-64
  elif command -v shasum >/dev/null 2>&1; then
    shasum -a 256 <"$1" | cut -c 1-64
  elif command -v openssl >/dev/null 2>&1; then
    openssl dgst -sha256 -r <"$1" | cut -c 1-64
  else
    return 1
  fi
}
