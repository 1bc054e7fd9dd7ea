//! One binary that turns any pool of machines reachable by SSH into a MapReduce cluster, and back.
//!
//! The crate is the engine, the installer and the command line behind it. A program hands its [`Job`] to [`main`]
//! and has `discover`, `deploy`, `serve`, `run`, `status` and `stop`; `src/main.rs` does so with the word count.
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
pub use job::{AsciiSet, Column, Cut, Emit, Job, Jobs, Line, Records, Span, Value, check, values};
pub use logic::tokenize::{Tokenizer, Tokens};
