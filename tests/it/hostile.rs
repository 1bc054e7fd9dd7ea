//! Hostile: strangers, impostors and members that misbehave, against real worker processes.
//!
//! After each kind the process lives, answers, holds no thread and no open file more than before and little memory, and
//! honest jobs beside it are exact. The figures are printed with `--nocapture`.

mod members;
mod orders;
mod peers;
mod replay;
mod roles;
pub mod stage;
mod strangers;
