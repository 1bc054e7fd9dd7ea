//! The command line: checks and converts; doing starts after parsing.

mod args;
mod completions;
mod convert;
mod examples;
mod failure;
mod panics;
mod pick;
mod values;

use std::ffi::OsString;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;

use crate::edge::sanitize::sanitize_bytes;
use crate::edge::{machine, output, signals};
use crate::job::{Job, Jobs, Visitor};

pub use crate::edge::console::Console;
pub use args::PLAINTEXT_WARNING;
pub use failure::{CommandError, Exit};

use convert::{Action, Parsed};
use pick::Picked;

use super::{deploy, discover, identity, run, serve, status, stop};

/// Runs the command line of a program whose jobs are `S`, one [`Job`] or a tuple of some: the whole of its `main`.
pub fn main<S: Jobs>() -> ExitCode {
    // Before anything is read: keys may be among it.
    machine::leave_no_core();
    panics::report_in_one_line();
    let args: Vec<OsString> = std::env::args_os().collect();
    match pick::job(&args, &S::list()) {
        Picked::Job(name) => {
            let ran = S::pick(name, Program::<S> { args, jobs: PhantomData });
            // It is one of the list.
            ran.unwrap_or(ExitCode::from(Exit::Usage.code()))
        }
        Picked::List(text) => match output::print(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(Exit::Failure.code()),
        },
        Picked::Unknown(message) => {
            Console::new(false, false).error(&anyhow!(message), Some("`run --job` lists the jobs"));
            ExitCode::from(Exit::Usage.code())
        }
    }
}

/// The program, whose job has been picked from `S`.
struct Program<S> {
    args: Vec<OsString>,
    jobs: PhantomData<S>,
}

impl<S: Jobs> Visitor for Program<S> {
    type Output = ExitCode;

    fn visit<J: Job>(self) -> ExitCode {
        let args = self.args;
        match parse::<S, J>(args.clone()).map_err(|error| safe_to_print::<S, J>(error, &args)) {
            Ok(parsed) => act::<S, J>(parsed),
            Err(error) => {
                // Help that nobody reads to its end is no failure.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
            }
        }
    }
}

fn act<S: Jobs, J: Job>(parsed: Parsed<J::Params>) -> ExitCode {
    let Parsed { console, action } = parsed;
    if let Err(error) = signals::listen() {
        console.warn(&format!("cannot listen for Ctrl-C: {error}"));
    }
    let performed = catch_unwind(AssertUnwindSafe(|| perform::<S, J>(action, &console)));
    // A merge that does not end, because a disk takes nothing, ends with the process, and drops nothing.
    signals::remove_files();
    match performed {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if output::is_closed_pipe(&error.cause) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            console.error(&error.cause, error.advice.as_deref());
            ExitCode::from(error.exit.code())
        }
        // The panic hook has said why.
        Err(_) => ExitCode::from(Exit::Failure.code()),
    }
}

/// Tells whether `args`, beginning with the program's name, are a command line of a program whose jobs are `S`: the
/// documentation is checked with it.
///
/// # Errors
/// What the user would be told.
#[doc(hidden)]
pub fn parses<S: Jobs>(args: &[&str]) -> Result<(), String> {
    struct Parses<S>(Vec<OsString>, PhantomData<S>);

    impl<S: Jobs> Visitor for Parses<S> {
        type Output = Result<(), String>;

        fn visit<J: Job>(self) -> Self::Output {
            match parse::<S, J>(self.0) {
                Ok(_) => Ok(()),
                Err(error) if error.exit_code() == 0 => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    match pick::job(&args, &S::list()) {
        Picked::Job(name) => S::pick(name, Parses::<S>(args, PhantomData)).unwrap_or(Ok(())),
        Picked::List(_) => Ok(()),
        Picked::Unknown(message) => Err(message),
    }
}

fn perform<S: Jobs, J: Job>(action: Action<J::Params>, console: &Console) -> Result<(), CommandError> {
    match action {
        Action::Discover(options) => discover::discover(&options, console),
        Action::Deploy(options) => deploy::deploy(&options, console),
        Action::Serve(options) => serve::serve::<S>(&options, console),
        Action::Identity(options) => identity::identity(&options, console),
        Action::Run(options, params) => run::run::<J>(&options, params, console),
        Action::Status(options) => status::status(&options, console),
        Action::Stop(options) => stop::stop(&options, console),
        Action::Print(script) => output::print(&script).map_err(CommandError::from),
    }
}

fn parse<S: Jobs, J: Job>(args: Vec<OsString>) -> Result<Parsed<J::Params>, clap::Error> {
    let program = args.first().map_or(J::NAME.into(), |path| program_name(Path::new(path)));
    let mut command = args::command::<S, J>(&program);
    let matches = command.try_get_matches_from_mut(args)?;
    convert::convert::<J::Params>(&matches, &mut command, &program)
}

/// Returns what `error` says of `args`, with nothing of those that could steer a terminal: a name that a shell has put
/// there for `*` may be anybody's.
fn safe_to_print<S: Jobs, J: Job>(error: clap::Error, args: &[OsString]) -> clap::Error {
    let safe: Vec<OsString> = args.iter().map(|arg| sanitize_bytes(arg.as_encoded_bytes()).into()).collect();
    if safe == args || !error.use_stderr() {
        return error;
    }
    let unlike = safe.iter().zip(args).find(|(safe, arg)| safe != arg);
    parse::<S, J>(safe.clone()).err().unwrap_or_else(|| {
        let unlike = unlike.map(|(safe, _)| safe.to_string_lossy()).unwrap_or_default();
        clap::Error::raw(error.kind(), format!("the argument '{unlike}' cannot be what is meant\n"))
    })
}

/// The name that help and examples show: the file name of the executable, for each program has its own job.
fn program_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
