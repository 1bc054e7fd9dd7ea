//! Pick: which job a command line is about, found before it is parsed, for each job has flags of its own.

use std::ffi::OsString;

use crate::edge::sanitize::sanitize_bytes;
use crate::job::Listed;

/// What a command line says of the job.
#[derive(Debug, PartialEq, Eq)]
pub enum Picked {
    /// One of the list.
    Job(&'static str),
    /// The list itself is wanted, which this is for people.
    List(String),
    /// There is no such job.
    Unknown(String),
}

/// Finds the job that `args`, beginning with the program's name, are about: the one that `run --job` names, or that has
/// a flag of its own there; else the first of `jobs`.
pub fn job(args: &[OsString], jobs: &[Listed]) -> Picked {
    let first = Picked::Job(jobs.first().map_or("", |job| job.name));
    let is_flag = |arg: &&OsString| arg.as_encoded_bytes().starts_with(b"-");
    let mut words = args.iter().skip(1).skip_while(is_flag);
    if words.next().is_none_or(|command| command != "run") {
        return first;
    }
    let words: Vec<&OsString> = words.take_while(|arg| *arg != "--").collect();
    for (at, word) in words.iter().enumerate() {
        let name = match word.as_encoded_bytes() {
            b"--job" => words.get(at + 1).filter(|next| !is_flag(next)).map(|next| next.as_encoded_bytes()),
            word => match word.strip_prefix(b"--job=") {
                Some(name) => Some(name),
                None => continue,
            },
        };
        return match name {
            Some(name) => named(name, jobs),
            None => Picked::List(list(jobs)),
        };
    }
    let picked = jobs.iter().find(|job| {
        job.picked_by.is_some_and(|flag| words.iter().any(|word| is(word.as_encoded_bytes(), flag)))
    });
    picked.map_or(first, |job| Picked::Job(job.name))
}

/// Tells whether `word` is `--flag` or `--flag=VALUE`.
fn is(word: &[u8], flag: &str) -> bool {
    let rest = word.strip_prefix(b"--").and_then(|word| word.strip_prefix(flag.as_bytes()));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
}

fn named(name: &[u8], jobs: &[Listed]) -> Picked {
    match jobs.iter().find(|job| job.name.as_bytes() == name) {
        Some(job) => Picked::Job(job.name),
        None => {
            let known: Vec<&str> = jobs.iter().map(|job| job.name).collect();
            Picked::Unknown(format!("there is no job {:?}, only {}", sanitize_bytes(name), known.join(", ")))
        }
    }
}

fn list(jobs: &[Listed]) -> String {
    let width = jobs.iter().map(|job| job.name.len()).max().unwrap_or(0);
    jobs.iter().map(|job| format!("{:width$}  {}\n", job.name, job.about)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: [Listed; 3] = [
        Listed { name: "count", about: "Counts", picked_by: None },
        Listed { name: "find", about: "Finds", picked_by: None },
        Listed { name: "streaming", about: "Runs", picked_by: Some("map") },
    ];

    fn picked(line: &str) -> Picked {
        let args: Vec<OsString> = format!("prog {line}").split(' ').map(OsString::from).collect();
        job(&args, &JOBS)
    }

    #[test]
    fn a_job_is_named_or_has_a_flag_or_is_the_first() {
        for (line, name) in [
            ("", "count"),
            ("status", "count"),
            ("status --job find", "count"),
            ("run a.txt", "count"),
            ("run --job find a.txt", "find"),
            ("-q run a.txt --job=find", "find"),
            ("run --map cat a.txt", "streaming"),
            ("run --map=cat a.txt", "streaming"),
            ("run --mapper cat a.txt", "count"),
            ("run --map cat --job find a.txt", "find"),
            ("run a.txt -- --job find --map cat", "count"),
        ] {
            assert_eq!(picked(line), Picked::Job(name), "{line}");
        }
    }

    #[test]
    fn jobs_are_listed_and_unknown_ones_named() {
        let list = "count      Counts\nfind       Finds\nstreaming  Runs\n".to_owned();
        assert_eq!(picked("run --job"), Picked::List(list.clone()));
        assert_eq!(picked("run --job -q"), Picked::List(list));
        let Picked::Unknown(message) = picked("run --job fnd a.txt") else { panic!("there is no such job") };
        assert!(message.contains("\"fnd\"") && message.contains("count, find, streaming"), "{message}");
    }
}
