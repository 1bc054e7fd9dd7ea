//! Command line: what a user can type, what is refused, and where the answers go.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mapreduce::cmd::cli;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::program::{Finished, Invocation};
use crate::jobs::Shipped;

const COMMANDS: [&str; 7] = ["discover", "deploy", "serve", "run", "status", "stop", "completions"];

fn run(args: &[&str]) -> Finished {
    Invocation::new(args).run()
}

#[test]
fn help_of_every_command_goes_to_standard_output_with_examples() {
    let whole = run(&["--help"]).expect_code(0);
    for name in COMMANDS {
        assert!(whole.stdout.contains(&format!("\n  {name} ")), "{}", whole.stdout);
        let help = run(&[name, "--help"]).expect_code(0);
        assert!(help.stdout.contains(&format!("Usage: mapreduce {name}")), "{}", help.stdout);
        assert!(help.stdout.contains("Examples:\n"), "{}", help.stdout);
        assert_eq!(help.stderr, "");
        assert!(!help.stdout.contains("--detach"), "a flag for `deploy` only is shown: {}", help.stdout);
    }
}

#[test]
fn examples_of_the_help_can_be_typed() {
    let mut checked = 0;
    for name in
        [vec![], vec!["discover"], vec!["deploy"], vec!["serve"], vec!["run"], vec!["status"], vec!["stop"]]
    {
        let help = run(&[name, vec!["--help"]].concat()).expect_code(0).stdout;
        let examples = help.lines().filter(|line| line.starts_with("  ") && line.contains("mapreduce "));
        for line in examples {
            // What an example does stands behind it, after a wide gap.
            let (line, _) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
            checked += check_line(line);
        }
    }
    assert!(checked >= 15, "only {checked} examples were found");
}

/// Documentation does not rot: every command line of the README is one that the program takes.
#[test]
fn commands_of_the_readme_can_be_typed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).expect("the README");
    let mut in_code = false;
    let mut checked = 0;
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            checked += check_line(line);
        }
    }
    assert!(checked >= 10, "only {checked} command lines were found");
}

/// What users look for when something goes wrong is what the program says.
#[test]
fn errors_of_the_readme_are_those_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let code: Vec<String> = files_below(&root.join("src"))
        .map(|path| std::fs::read_to_string(path).expect("a source file"))
        .collect();
    let (_, table) = readme.split_once("| you see |").expect("the table");
    let mut checked = 0;
    for row in table.lines().take_while(|line| !line.starts_with('#')).skip(2) {
        let cell = row.split('|').nth(1).unwrap_or_default();
        for quoted in cell.split('`').skip(1).step_by(2) {
            // A failure of a host is put together from this and its step.
            let text = quoted.strip_prefix("could not ").unwrap_or(quoted);
            assert!(code.iter().any(|file| file.contains(text)), "nothing says `{quoted}`");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} errors were found");
}

fn files_below(dir: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    Box::new(
        entries.flat_map(
            |path| {
                if path.is_dir() { files_below(&path) } else { Box::new(std::iter::once(path)) }
            },
        ),
    )
}

/// Checks each call of the program in a line of shell; returns how many there were.
fn check_line(line: &str) -> usize {
    let mut checked = 0;
    for words in shell_commands(line) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let args = match words.as_slice() {
            ["mapreduce", ..] => words.clone(),
            ["cargo", "run", "--release", "--", rest @ ..] => [&["mapreduce"], rest].concat(),
            _ => continue,
        };
        // Files that are shipped are read at once, and these are nobody's.
        let is_shipped = |at: usize| args[at] == "--ship" || at > 0 && args[at - 1] == "--ship";
        let args: Vec<&str> = (0..args.len()).filter(|at| !is_shipped(*at)).map(|at| args[at]).collect();
        if let Err(error) = cli::parses::<Shipped>(&args) {
            panic!("`{line}` is not understood: {error}");
        }
        checked += 1;
    }
    checked
}

/// Splits a line of shell into its commands and those into words, as far as documentation needs it: quotes, pipes,
/// lists, comments; a redirection ends a command.
fn shell_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut redirected = false;
    let line = line.trim_start().trim_start_matches("$ ");
    for character in line.chars().chain([' ']) {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';' | '&' | '>' | '<') => {
                if let Some(word) = word.take().filter(|_| !redirected) {
                    commands.last_mut().expect("one was put there").push(word);
                }
                match character {
                    '|' | ';' | '&' => {
                        commands.push(Vec::new());
                        redirected = false;
                    }
                    '>' | '<' => redirected = true,
                    _ => {}
                }
            }
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn shell_lines_are_split_as_a_shell_would() {
    assert_eq!(
        shell_commands("$ zcat 'a b.gz' | mapreduce run - --suffix '' > out # why"),
        [vec!["zcat", "a b.gz"], vec!["mapreduce", "run", "-", "--suffix", ""]]
    );
}

#[test]
fn wrong_usage_exits_2_and_says_so_on_standard_error() {
    for args in [
        &[][..],
        &["walk"],
        &["run"],
        &["run", "a.txt", "--nonsense"],
        &["run", "a.txt", "--local", "--workers", "localhost:1"],
        &["run", "a.txt", "--local", "--hosts", "h.toml"],
        &["run", "a.txt", "--hosts", "h.toml", "--workers", "localhost:1"],
        &["run", "a.txt", "--local", "--servers", "2"],
        &["run", "a.txt", "--workers", "localhost"],
        &["run", "a.txt", "--workers", "localhost:0"],
        &["run", "a.txt", "--top", "0"],
        &["run", "a.txt", "--servers", "0"],
        &["run", "a.txt", "--threads", "0"],
        &["run", "a.txt", "--split-size", "0"],
        &["run", "a.txt", "--split-size", "many"],
        &["run", "a.txt", "--format", "xml"],
        &["run", "a.txt", "--tokens", "letters"],
        &["run", "a.txt", "--worker-timeout", "0"],
        &["run", "a.txt", "-q", "-v"],
        &["discover"],
        &["discover", "0"],
        &["discover", "-3"],
        &["discover", "4", "--from", "x", "--range", "a-[1-2]"],
        &["discover", "4", "--parallel", "0"],
        &["discover", "4", "--timeout", "0s"],
        &["discover", "4", "--ssh-rate", "5"],
        &["discover", "4", "--suffix", "a b"],
        &["deploy", "--idle-timeout", "never"],
        &["deploy", "--memory", "0"],
        &["deploy", "--remote-dir", ""],
        &["deploy", "--remote-dir", "/tmp/me", "--shared-dir", "/nfs/me"],
        &["discover", "4", "--user", "a b"],
        &["serve", "--port", "65536"],
        &["serve", "--bind", "somewhere"],
        &["status", "extra"],
        &["completions", "cmd.exe"],
    ] {
        let refused = run(args).expect_code(2);
        assert_eq!(refused.stdout, "", "{args:?}");
        let refused = refused.stderr;
        assert!(
            refused.contains("Usage: mapreduce") || refused.contains("try '--help'"),
            "{args:?}: {refused}"
        );
    }
}

#[test]
fn one_file_cannot_be_both_the_result_and_the_report() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/alice.txt");
    let refused = Invocation::new(&["run", text, "-o", "same", "--report", "same"]);
    let refused = refused.current_dir(directory.path()).run().expect_code(2);
    assert!(refused.stderr.contains("same cannot be both"), "{}", refused.stderr);
    assert!(!directory.path().join("same").exists());
}

#[test]
fn every_flag_of_every_command_is_taken() {
    for line in [
        "mapreduce discover 16 --from list.txt --user me --suffix .enst.fr --hosts h.toml --timeout 5 --parallel 8",
        "mapreduce discover 16 --range 'tp-1a201-[00-30]' --ssh-rate 5/min -q",
        "mapreduce deploy --hosts h.toml --binary b --remote-dir /tmp/me --idle-timeout 1h",
        "mapreduce deploy --shared-dir /nfs/me",
        "mapreduce deploy --parallel 4 --timeout 20s --ssh-rate 1/s --threads 4 --memory 2GiB -v",
        "mapreduce serve --port 4000 --bind ::1 --threads 4 --memory 2GB --idle-timeout 30m --detach /tmp/x",
        "mapreduce run a b - --hosts h.toml --servers 4 --tokens whitespace --ignore-case --top 10 -o out.csv",
        "mapreduce run a --workers h1:1,[::1]:2 --format json --split-size 4MiB --report r.json --worker-timeout 5s",
        "mapreduce run a --local --threads 2",
        "mapreduce run a --via-ssh --ssh-rate 5/min --accept-new-host-keys ask",
        "mapreduce status --hosts h.toml --timeout 2s --via-ssh --ssh-rate 5/min",
        "mapreduce stop --hosts h.toml --timeout 2s --parallel 2 --ssh-rate 5/min",
        "mapreduce completions zsh",
    ] {
        assert_eq!(check_line(line), 1, "{line}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).expect_code(0);
        assert!(script.stdout.contains("discover") && script.stdout.contains("ignore-case"), "{shell}");
        assert_eq!(script.stderr, "");
    }
}

/// A program built on the library shows its own name and version.
#[test]
fn program_is_called_what_its_file_is_called() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let other = directory.path().join("inverted");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mapreduce"), &other).expect("a link");
    let help = Invocation::of(&other, &["run", "--help"]).run().expect_code(0).stdout;
    assert!(help.contains("Usage: inverted run") && help.contains("zcat big.gz | inverted run -"), "{help}");
    assert!(!help.contains("mapreduce run"), "{help}");
    let version = Invocation::of(&other, &["--version"]).run().expect_code(0).stdout;
    assert_eq!(version, format!("inverted {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn failures_name_the_file_on_standard_error_without_colours() {
    for args in [&["run", "--local", "no/such/file.txt"][..], &["deploy", "--hosts", "no/such/hosts.toml"]] {
        let failed = run(args).expect_code(1);
        assert_eq!(failed.stdout, "");
        assert!(failed.stderr.contains("error: ") && failed.stderr.contains("no/such/"), "{}", failed.stderr);
        assert!(!failed.stderr.contains('\x1b'), "{:?}", failed.stderr);
        assert!(
            !failed.stderr.contains("panicked") && !failed.stderr.contains("internal"),
            "{}",
            failed.stderr
        );
    }
}

/// A command that has nothing to wind down ends at the first Ctrl-C.
#[test]
fn interrupt_ends_a_command_that_waits() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let page = format!("http://{}/", silent.local_addr().expect("bound"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let waiting = Invocation::new(&["discover", "2", "--from", &page, "--timeout", "30s"])
        .current_dir(directory.path())
        .spawn();
    // It has asked once it is connected, and waits for an answer that never comes.
    let _connection = silent.accept().expect("the program to connect");
    let pid = Pid::from_raw(i32::try_from(waiting.pid()).expect("a pid")).expect("not zero");
    kill_process(pid, Signal::INT).expect("the program to be there");
    let ended = waiting.wait().expect_code(130);
    assert!(ended.elapsed < Duration::from_secs(20), "it waited for the page: {ended:#?}");
    assert_eq!(ended.stdout, "");
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
}
