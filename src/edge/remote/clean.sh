# Clean: how our workers of one remote directory are stopped, and what they left is removed.
#
# Variables: `configured`, and one of these, the others empty, or all empty to remove everything:
# `keep`, the id of a cluster whose workers stay, with `program`, the file name of a program that stays;
# `only`, the name of the one worker's directory that is meant.
#
# A process is taken for a worker only if it is ours and its command line has `--detach DIR/worker-...`; process
# numbers in files are not relied on, for they may belong to something else by now. The directory may be shared with
# other machines: there, workers' directories whose `host` file names another machine are left to that machine.

# Tells whether the worker of the directory $1 is to be stopped.
meant() {
  if [ -n "$only" ]; then
    [ "$1" = "$dir/$only" ]
  elif [ -n "$keep" ]; then
    case $1 in "$dir/worker-$keep-"*) return 1 ;; esac
  fi
}

# Sets `lines` to the files with the command lines of our own processes. Those of others are not read: a process can
# make everybody who reads its command line wait for as long as it likes.
list_own() {
  lines=
  for process in /proc/[0-9]*; do
    [ ! -O "$process" ] || lines="$lines $process/cmdline"
  done
}

# Prints the process numbers of our workers on this machine.
workers() {
  list_own
  for file in $(grep -lzF -e "$dir/worker-" $lines 2>/dev/null); do
    pid=${file#/proc/}
    pid=${pid%/cmdline}
    [ -O "/proc/$pid" ] || continue
    worker=$(tr '\000' '\n' <"$file" 2>/dev/null | sed -n '/^--detach$/{n;p;q;}')
    case $worker in "$dir/worker-"*) ;; *) continue ;; esac
    if meant "$worker"; then echo "$pid"; fi
  done
}

# Waits until none of the processes `pids` is left, about two seconds at most; tells whether that is so. One that ended
# and that nobody has asked about yet has no file any more.
await_end() {
  rounds=0
  for pid in $pids; do
    while [ -e "/proc/$pid/exe" ]; do
      [ "$rounds" -lt 60 ] || return
      sleep 0.03 2>/dev/null || {
        sleep 1
        rounds=$((rounds + 30))
      }
      rounds=$((rounds + 1))
    done
  done
}

stop_workers() {
  pids=$(workers)
  [ -n "$pids" ] || return 0
  set -- $pids
  say stopped "$#"
  kill -TERM $pids 2>/dev/null
  # A worker that was suspended does not see the first signal before it is woken.
  kill -CONT $pids 2>/dev/null
  await_end && return
  # Their numbers may belong to other processes by now.
  pids=$(workers)
  [ -n "$pids" ] || return 0
  kill -KILL $pids 2>/dev/null
  await_end || fail "process $(echo $pids) does not end"
}

# Ends the uploads that a broken connection has left behind: until somebody tells this machine, which may be never, they
# wait for bytes that do not come.
end_uploads() {
  list_own
  for file in $(grep -lzF -e "$dir/mapreduce-" $lines 2>/dev/null); do
    pid=${file#/proc/}
    pid=${pid%/cmdline}
    [ -O "/proc/$pid" ] || continue
    case $(tr '\000' ' ' <"$file" 2>/dev/null) in
      'sh -c umask 077; t='*"$dir/mapreduce-"*.part*) ;;
      *) continue ;;
    esac
    # With what it has started, which waits for the bytes, where sshd has made it a group.
    kill -TERM "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null
  done
}

# Sets `node` and `here` to what the `host` files of workers on this machine say.
name_host() {
  [ -z "$node" ] || return 0
  node=$(uname -n)
  boot=
  { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
  here=$boot:$(readlink /proc/self/ns/pid 2>/dev/null)
}

remove_worker_dirs() {
  node=
  for worker in "$dir"/worker-*; do
    [ -d "$worker" ] && [ ! -L "$worker" ] && [ -O "$worker" ] || continue
    meant "$worker" || continue
    name_host
    its_here= its_node=
    { read -r its_here its_node <"$worker/host"; } 2>/dev/null
    if [ "$its_here" = "$here" ] || [ "$its_node" = "$node" ] || [ -z "$its_here" ]; then
      rm -rf -- "$worker"
      [ ! -e "$worker" ] || fail "$worker cannot be removed"
    else
      say elsewhere "$its_node"
    fi
  done
}

# Removes the programs that no worker's directory names: a program that runs on another machine must stay, for
# network file systems take it away under the running process.
remove_programs() {
  for file in "$dir"/mapreduce-*; do
    [ -f "$file" ] && [ ! -L "$file" ] && [ -O "$file" ] || continue
    name=${file##*/}
    if [ -n "$program" ]; then
      # Its name may be followed by that of an upload in progress.
      case $name in "$program"*) continue ;; esac
    fi
    for worker in "$dir"/worker-*; do
      [ -d "$worker" ] && [ ! -L "$worker" ] && [ -O "$worker" ] || continue
      used=$name
      { read -r used <"$worker/program"; } 2>/dev/null
      case $name in "${used:-$name}"*) continue 2 ;; esac
    done
    rm -f -- "$file"
    [ ! -e "$file" ] || fail "$file cannot be removed"
  done
}

# Leaves `dir` as it was named or, if its place is there, by its true path. What is there and is no directory of ours
# is not touched.
clean() {
  name_dir
  # The directory may be gone though a worker still runs.
  true_dir
  stop_workers
  [ -n "$keep$only" ] || end_uploads
  if [ -d "$dir" ] && check_way && check_dir; then
    remove_worker_dirs
    [ -n "$only" ] || remove_programs
    if [ -z "$keep$only" ]; then
      rm -f -- "$dir"/try-*
      # What is still in it is not ours to remove.
      rmdir -- "$dir" 2>/dev/null
    fi
  fi
}
