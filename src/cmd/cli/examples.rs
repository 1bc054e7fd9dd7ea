//! Examples: the foot of each command's help, with the program's own name.

/// Returns what stands below the help of the whole program.
pub fn of_program(program: &str) -> String {
    with_name(
        program,
        "On this machine:
  PROGRAM run book.txt

On a pool of machines:
  PROGRAM discover 16           find 16 machines that answer, write hosts.toml
  PROGRAM deploy                put a worker on each
  PROGRAM run big.txt           use them
  PROGRAM stop                  leave nothing behind

Results go to standard output, everything else to standard error.
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.",
    )
}

/// Returns the examples of the command called `name`; empty for one without. Those that pick a job are for programs
/// with `several_jobs`.
pub fn of_command(name: &str, program: &str, several_jobs: bool) -> String {
    let text = match name {
        "discover" => {
            "Examples:
  PROGRAM discover 16                                 from the lab's page
  PROGRAM discover 8 --range 'tp-1a201-[00-30]'       from one room
  PROGRAM discover 4 --from machines.txt --suffix ''  from a list of your own
  PROGRAM discover 16 --ssh-rate 5/min                from a machine of the lab

Fewer machines than wanted are written all the same; the exit code is 1 then."
        }
        "deploy" => {
            "Examples:
  PROGRAM deploy
  PROGRAM deploy --remote-dir /var/tmp/me             where /tmp is mounted noexec
  PROGRAM deploy --shared-dir '~/mapreduce-shared'    upload once, to an NFS home
  PROGRAM deploy --threads 4 --memory 2GB             be a modest guest

Hosts that fail are named with the reason, the others are deployed; the exit code is 1 then."
        }
        "serve" => {
            "Examples:
  PROGRAM serve --port 4000
  PROGRAM run --workers localhost:4000 book.txt       (in another terminal)

On other machines than this one:
  PROGRAM identity lab.identity                       once; copy it to the others with scp -p
  PROGRAM serve --bind 0.0.0.0 --port 4000 --identity lab.identity
  PROGRAM run --workers tp-1:4000 --identity lab.identity book.txt

`deploy` starts workers for you; this is for trying things out by hand."
        }
        "run" => RUN,
        "status" => {
            "Examples:
  PROGRAM status
  PROGRAM status --hosts lab.toml --timeout 2s"
        }
        "stop" => {
            "Examples:
  PROGRAM stop
  PROGRAM stop --ssh-rate 5/min                       from a machine of the lab"
        }
        "identity" => {
            "Examples:
  PROGRAM identity lab.identity
  PROGRAM serve --bind 0.0.0.0 --port 4000 --identity lab.identity

Whoever has the file can run jobs on the workers and read what they are sent. `deploy` needs none: it makes
an identity of its own for each worker."
        }
        "completions" => {
            "Examples:
  PROGRAM completions bash > ~/.local/share/bash-completion/completions/PROGRAM
  PROGRAM completions zsh > ~/.zfunc/_PROGRAM
  PROGRAM completions fish > ~/.config/fish/completions/PROGRAM.fish"
        }
        _ => "",
    };
    let picks_a_job = |line: &&str| line.contains(" --job") || line.contains(" --map");
    let lines: Vec<&str> = text.lines().filter(|line| several_jobs || !picks_a_job(line)).collect();
    with_name(program, &lines.join("\n"))
}

const RUN: &str = "Examples:
  PROGRAM run book.txt                                the first 20 on a terminal, all into a pipe
  PROGRAM run logs/ *.gz -o counts.tsv                all files below, and some; unpacked if need be
  PROGRAM run big.txt --top 100 --format json
  PROGRAM run big.txt --min-count 2 -o counts.csv.gz
  PROGRAM run big.txt --partitioned counts            a file for each worker
  zcat big.gz | PROGRAM run -
  PROGRAM run logs 'archive/*.gz'                     directories, patterns, what is compressed
  PROGRAM run --job                                   which jobs there are
  PROGRAM run --job grep --pattern 'err(or)?' logs
  PROGRAM run --map ./mapper.py --reduce ./reducer.py --ship mapper.py --ship reducer.py big.txt
  PROGRAM run --on-workers /cal/commoncrawl --readers 8 --job languages
  PROGRAM run big.txt --servers 8 --report report.json

Without --workers and --local the deployed workers are used; where there are none, this machine.";

fn with_name(program: &str, text: &str) -> String {
    text.replace("PROGRAM", program)
}
