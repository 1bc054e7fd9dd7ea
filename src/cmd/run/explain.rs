//! Explain: what the user is told of a run that failed: what failed, where, and what to do next.

use anyhow::{Error, anyhow};

use crate::logic::coordinator::{Failure, Loss};
use crate::logic::ids::WorkerId;
use crate::runtime::client::RunError;
use crate::runtime::source::SplitSource;

use super::{CommandError, RunOptions, Workers};
use crate::cmd::cli::Exit;

/// What names what a failure is about.
pub(super) struct Told<'t> {
    /// The job's.
    pub job: &'t str,
    /// The workers', spares included; there are none in-process.
    pub names: &'t [String],
    pub source: &'t dyn SplitSource,
    pub options: &'t RunOptions,
}

impl Told<'_> {
    /// Makes a failure what the user is told.
    pub(super) fn explain(&self, error: RunError) -> CommandError {
        let (cause, advice) = match error.failure {
            Failure::Interrupted => return CommandError::interrupted(),
            Failure::NoWorkerLeft(Loss { phase, cause, .. }) | Failure::GaveUp(Loss { phase, cause, .. })
                if self.names.is_empty() =>
            {
                (anyhow!(cause).context(format!("job {} failed in {phase}", self.job)), None)
            }
            Failure::NoWorkerLeft(last) => {
                let advice = advice_for(&last.cause).unwrap_or_else(|| self.start_again());
                (self.no_worker_left(last), Some(advice.to_owned()))
            }
            Failure::GaveUp(last) => {
                let advice = advice_for(&last.cause).unwrap_or(SEE_WORKERS).to_owned();
                (self.gave_up(last), Some(advice))
            }
            Failure::ExecutionFailed { worker, split, cause, workers, unreadable } => {
                let (place, name) = (self.source.describe(&split), self.name(worker));
                let failed = match workers {
                    _ if self.names.is_empty() => format!("could not map the split of {place}"),
                    0 | 1 => format!("worker {name} could not map the split of {place}"),
                    _ => format!("{workers} workers could not map the split of {place}; the last was {name}"),
                };
                let failed = format!("job {}: {failed}", self.job);
                let advice = match lacks_memory(&cause) {
                    _ if unreadable => Some(LEAVE_OUT),
                    _ if self.names.is_empty() => None,
                    true => Some(GIVE_MORE),
                    false => Some(MEND_OR_TAKE_OUT),
                };
                (anyhow!(cause).context(failed), advice.map(str::to_owned))
            }
            Failure::Input { cause } => (anyhow!(cause).context("the input cannot be read"), None),
            Failure::Output { cause } => {
                let output = error.output.map_or_else(|| anyhow!(cause), Error::from);
                (output.context("the result cannot be written"), None)
            }
        };
        CommandError { cause, advice, exit: Exit::Failure }
    }

    fn name(&self, worker: WorkerId) -> &str {
        self.names.get(worker.index()).map_or("?", String::as_str)
    }

    fn no_worker_left(&self, last: Loss) -> Error {
        let lost = self.lost(last);
        match self.names.len() {
            0 | 1 => lost,
            all => lost.context(format!("no worker is left: all {all} were lost")),
        }
    }

    fn gave_up(&self, last: Loss) -> Error {
        let Loss { worker, phase, cause, .. } = last;
        let context = format!(
            "job {}: workers gave up for the same reason, {} the last, in {phase}",
            self.job,
            self.name(worker)
        );
        anyhow!(cause).context(context)
    }

    fn lost(&self, Loss { worker, phase, cause, accuser, .. }: Loss) -> Error {
        let cause = match accuser {
            None => anyhow!(cause),
            Some(peer) => {
                let pair = format!("{} and {} cannot reach each other", self.name(worker), self.name(peer));
                anyhow!(cause).context(pair)
            }
        };
        cause.context(format!("worker {} was lost in {phase}", self.name(worker)))
    }

    fn start_again(&self) -> &'static str {
        match self.options.workers {
            Workers::Named(_) => "start the workers again with `serve`, or name others in --workers",
            _ => "`status` says what runs where; `deploy` starts the workers again",
        }
    }
}

/// Returns what helps against a cause that lies in the job or in what it needs, not in a worker.
fn advice_for(cause: &str) -> Option<&'static str> {
    match cause {
        _ if lacks_memory(cause) => Some(GIVE_MORE),
        _ if cause.contains("the job panicked") => Some(MEND),
        _ if cause.contains("clients that prove who they are") => Some(PROVE),
        _ => None,
    }
}

/// Tells whether a worker was not allowed the memory that its map tables need. A panic's words are the job's own.
fn lacks_memory(cause: &str) -> bool {
    cause.contains("(--memory)") && !cause.contains("the job panicked")
}

/// What helps where the workers' map tables do not fit what they may use.
const GIVE_MORE: &str =
    "let the workers use more memory with `deploy --memory` (`serve --memory`), or use more of them";

/// What helps where a split fails wherever it is executed.
const MEND_OR_TAKE_OUT: &str =
    "mend the job, or take the record out of the input; `run --local` of that file fails in the same way";

/// What helps where a split cannot be read or unpacked.
const LEAVE_OUT: &str = "mend the file; or `run --skip-bad-input`, which leaves out what cannot be read";

/// What helps where a worker does not know whom it would work for.
const PROVE: &str =
    "deploy, or `serve` and `run` with --identity; on a machine of your own, `serve --allow-commands`";

/// What helps where the job fails on what many splits have given.
const MEND: &str = "mend the job: it would fail on other workers, too; `run --local` fails in the same way";

/// What helps where workers lack something that is no memory.
const SEE_WORKERS: &str =
    "others would give up, too: see to the cause there; if it is threads, `deploy` with fewer --threads";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::input::{Input, Wanted};
    use crate::edge::output::{Destination, Format};
    use crate::logic::coordinator::Phase;
    use crate::logic::ids::SplitId;
    use crate::logic::packing::Compress;
    use crate::logic::split::Split;

    /// What is said of `failure` when `names` were used.
    fn said(names: &[&str], workers: Workers, failure: Failure) -> (String, Option<String>) {
        let directory = tempfile::tempdir().unwrap();
        let book = directory.path().join("book.txt");
        std::fs::write(&book, "some text").unwrap();
        let input = Input::open(&Wanted { files: &[book], ..Wanted::default() }).unwrap();
        let options = RunOptions {
            inputs: Vec::new(),
            on_workers: Vec::new(),
            readers: None,
            files_from: None,
            skip_bad_input: false,
            hosts: "hosts.toml".into(),
            workers,
            servers: None,
            top: None,
            min_count: None,
            destination: Destination::Stdout,
            format: Format::Tsv,
            split_size: None,
            report: None,
            threads: None,
            worker_timeout: std::time::Duration::from_secs(10),
            compress: Compress::Auto,
            backups: true,
            identity: None,
            plaintext: false,
            via_ssh: false,
            ssh_rate: None,
            new_host_keys: Default::default(),
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let told = Told { job: "wordcount", names: &names, source: input.as_ref(), options: &options };
        let error = told.explain(RunError { failure, output: None });
        assert_eq!(error.exit, Exit::Failure);
        let said = format!("{:#}", error.cause).replace(&directory.path().display().to_string(), "");
        (said, error.advice)
    }

    fn last(worker: u32, accuser: Option<u32>) -> Loss {
        Loss {
            worker: WorkerId(worker),
            phase: Phase::Reduce,
            cause: "it is gone".into(),
            accuser: accuser.map(WorkerId),
            splits: 3,
            survivors: 0,
        }
    }

    #[test]
    fn the_loss_of_all_names_the_last() {
        let (text, advice) = said(&["a", "b"], Workers::Deployed, Failure::NoWorkerLeft(last(1, Some(0))));
        assert_eq!(
            text,
            "no worker is left: all 2 were lost: worker b was lost in reduce: b and a cannot reach each other: \
             it is gone"
        );
        assert!(advice.unwrap().contains("`deploy`"));
        let named = Workers::Named(vec!["a:1".into()]);
        let (text, advice) = said(&["a:1"], named, Failure::NoWorkerLeft(last(0, None)));
        assert_eq!(text, "worker a:1 was lost in reduce: it is gone");
        assert!(advice.unwrap().contains("`serve`"));
        let (text, advice) = said(&[], Workers::Local, Failure::NoWorkerLeft(last(0, None)));
        assert_eq!((text.as_str(), advice), ("job wordcount failed in reduce: it is gone", None));
    }

    #[test]
    fn workers_that_give_up_alike_tell_why() {
        let (text, advice) = said(&["a", "b", "c"], Workers::Deployed, Failure::GaveUp(last(2, None)));
        assert_eq!(
            text,
            "job wordcount: workers gave up for the same reason, c the last, in reduce: it is gone"
        );
        assert_eq!(advice.unwrap(), SEE_WORKERS);
        for (cause, expected) in [
            ("the job panicked: no (--memory) of it", MEND),
            ("cannot start a thread: Resource temporarily unavailable", SEE_WORKERS),
        ] {
            let last = Loss { cause: cause.into(), ..last(2, None) };
            let (text, advice) = said(&["a", "b", "c"], Workers::Deployed, Failure::GaveUp(last));
            assert!(text.ends_with(cause), "{text}");
            let advice = advice.unwrap();
            assert!(advice == expected && !advice.contains("memory"), "{advice}");
        }
    }

    /// What a worker says whose map tables do not fit: see `runtime::engine`.
    const TOO_LITTLE: &str =
        "the map tables need 12.5 MB, more than the 10.0 MB that this worker may use (--memory)";

    #[test]
    fn too_little_memory_is_no_fault_of_the_job() {
        let failed = |cause: &str, workers| Failure::ExecutionFailed {
            worker: WorkerId(1),
            split: Split { id: SplitId(0), file: 0, offset: 2, length: 5 },
            cause: cause.into(),
            workers,
            unreadable: false,
        };
        for workers in [1, 3] {
            let failure = failed(TOO_LITTLE, workers);
            let (text, advice) = said(&["a", "b", "c"], Workers::Deployed, failure);
            assert!(text.ends_with(TOO_LITTLE), "{text}");
            assert_eq!(advice.unwrap(), GIVE_MORE);
        }
        let (_, advice) =
            said(&["a", "b", "c"], Workers::Deployed, failed("the job panicked: no (--memory) of it", 3));
        assert_eq!(advice.unwrap(), MEND_OR_TAKE_OUT);
        // Workers on which many splits fail are taken out one after the other.
        let cause = format!("3 splits failed on it, the last with: {TOO_LITTLE}");
        let last = Loss { cause, ..last(1, None) };
        let (text, advice) = said(&["a", "b"], Workers::Deployed, Failure::NoWorkerLeft(last));
        assert!(text.starts_with("no worker is left: "), "{text}");
        assert_eq!(advice.unwrap(), GIVE_MORE);
    }

    #[test]
    fn a_split_that_cannot_be_read_can_be_left_out() {
        for (names, workers) in [(&["a", "b"][..], 2), (&[], 1)] {
            let failure = Failure::ExecutionFailed {
                worker: WorkerId(0),
                split: Split { id: SplitId(0), file: 0, offset: 2, length: 5 },
                cause: "it is torn".into(),
                workers,
                unreadable: true,
            };
            let (text, advice) = said(names, Workers::Local, failure);
            assert!(text.contains("could not map the split of /book.txt, bytes 2 to 7"), "{text}");
            assert_eq!(advice.unwrap(), LEAVE_OUT);
        }
    }

    #[test]
    fn a_split_that_fails_everywhere_is_named() {
        let failed = |workers| Failure::ExecutionFailed {
            worker: WorkerId(1),
            split: Split { id: SplitId(0), file: 0, offset: 2, length: 5 },
            cause: "the job panicked: poison".into(),
            workers,
            unreadable: false,
        };
        let (text, advice) = said(&["a", "b", "c"], Workers::Deployed, failed(3));
        assert_eq!(
            text,
            "job wordcount: 3 workers could not map the split of /book.txt, bytes 2 to 7; the last was b: \
             the job panicked: poison"
        );
        assert!(advice.unwrap().contains("run --local"));
        let (text, _) = said(&["a", "b", "c"], Workers::Deployed, failed(1));
        assert!(
            text.starts_with("job wordcount: worker b could not map the split of /book.txt, bytes 2 to 7: "),
            "{text}"
        );
        let (text, advice) = said(&[], Workers::Local, failed(1));
        assert!(
            text.starts_with("job wordcount: could not map the split of /book.txt, bytes 2 to 7: "),
            "{text}"
        );
        assert_eq!(advice, None);
    }
}
