//! One binary that turns any pool of machines reachable by SSH into a MapReduce cluster, and back.
//!
//! The crate is the engine, the installer and the command line behind it. A program hands its [`Job`], or a tuple of some,
//! to [`main`] and has `discover`, `deploy`, `serve`, `run`, `status` and `stop`; `src/main.rs` does so with the jobs that
//! people reach for daily.
//!
//! # A job of your own
//!
//! A MapReduce job says how some input becomes pairs of a key and a value, and how two values of one key become one. In an
//! empty crate (`cargo new letters`), with these dependencies:
//!
//! ```toml
//! [dependencies]
//! clap = { version = "4", features = ["derive"] }
//! mapreduce = { path = "../mapreduce" }
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! this is a program that finds how long the words of each first letter are, on as many machines as there are:
//!
//! ```
//! use mapreduce::values::Mean;
//! use mapreduce::{Emit, Job, Records};
//!
//! fn main() -> std::process::ExitCode {
//! #   if true { return tests::keeps_the_laws() }
//!     mapreduce::main::<Letters>()
//! }
//!
//! struct Letters(Params);
//!
//! #[derive(Clone, serde::Serialize, serde::Deserialize, clap::Args)]
//! struct Params {
//!     /// Leave out words of N bytes or fewer
//!     #[arg(long, value_name = "N", default_value_t = 0)]
//!     longer_than: usize,
//! }
//!
//! impl Job for Letters {
//!     const NAME: &'static str = "letters";
//!     const ABOUT: &'static str = "Find how long the words of each first letter are";
//!     const COLUMNS: [&'static str; 2] = ["letter", "mean"];
//!     type Params = Params;
//!     type Value = Mean;
//!
//!     fn new(params: Params) -> Result<Self, String> {
//!         Ok(Self(params))
//!     }
//!
//!     fn map(&self, records: Records<'_>, emit: &mut impl Emit<Mean>) -> Result<(), String> {
//!         let words = records.bytes().split(u8::is_ascii_whitespace);
//!         for word in words.filter(|word| word.len() > self.0.longer_than) {
//!             emit.pair(&word[..1], Mean::of(word.len() as f64));
//!         }
//!         Ok(())
//!     }
//!
//!     fn combine(&self, into: &mut Mean, other: Mean) {
//!         into.add(other);
//!     }
//! }
//! # mod tests {
//! #     use super::*;
//! #     pub fn keeps_the_laws() -> std::process::ExitCode {
//! #         let job = Letters(Params { longer_than: 1 });
//! #         mapreduce::check::job(&job, &["an apple\nis a fruit\n", "and so on"]);
//! #         let means = mapreduce::check::result(&job, &["an apple a\nbe"]);
//! #         assert_eq!(means, [("a", "3.5"), ("b", "2")].map(|(a, b)| (a.to_owned(), b.to_owned())));
//! #         std::process::ExitCode::SUCCESS
//! #     }
//! # }
//! ```
//!
//! It is tried on this machine, and then on others, to which it copies itself:
//!
//! ```text
//! cargo run --release -- run book.txt --longer-than 2
//! cargo build --release
//! target/release/letters discover 16
//! target/release/letters deploy
//! target/release/letters run *.txt -o letters.csv
//! target/release/letters stop
//! ```
//!
//! * `combine` must be commutative and associative, and a map must not depend on where the input was cut. [`check::job`]
//!   tries both on texts of yours: the first test of any job.
//! * What can be folded, from counts to sketches, is in [`values`]; anything else that implements [`Value`], too.
//! * Records are lines unless [`Job::cut`] says otherwise; [`Records::file`] and [`Line::offset`] tell where they are from.
//! * The result is in the order of its keys unless [`Job::rank`] puts them in another.
//! * A map that cannot go on returns an error, which ends the run with the name of the job, as a panic does.
//!
//! More of them: `examples/`, and the modules of [`jobs`].
//!
//! # The picture
//!
//! ```text
//!   cmd  ->  edge  ->  runtime  ->  wire  ->  logic        (left may use right; all may use `job`)
//!   story    touches   does         speaks    decides
//! ```
//!
//! # Invariants
//!
//! * The result equals the sequential fold of the job over the input, byte for byte, whatever the number of hosts,
//!   threads and splits; if it cannot be had, there is an error and no output file.
//! * `logic` and `wire` know no socket, file, thread, clock or terminal (`tests/it/tidy.rs` checks).
//! * State of a job belongs to its [`JobId`](logic::ids::JobId): two clients of one cluster never meet.
//!
//! # Reading order
//!
//! [`job`], [`logic::coordinator`], [`logic::worker`], [`wire::message`], [`runtime::client`], [`runtime::serve`],
//! then the kernels [`logic::tokenize`] and [`logic::table`].

#![deny(unsafe_code)]

pub mod cmd;
pub mod edge;
pub mod job;
pub mod jobs;
pub mod logic;
pub mod runtime;
pub mod wire;

pub use cmd::main;
pub use job::{
    AsciiSet, Column, Cut, Emit, Job, Jobs, Line, MapPiece, Pieces, Records, Span, Value, check, values,
};
pub use logic::tokenize::{Tokenizer, Tokens};
