//! Progress: shows a run while it goes on, on a terminal through indicatif, in milestone lines elsewhere.

mod bars;
mod lines;
mod text;

use crate::runtime::report::{Progress, Snapshot};

use self::bars::Bars;
use self::lines::Lines;
use super::console::Console;

/// Returns the display that suits `console`: moving bars, milestone lines, or nothing.
pub fn for_console(console: &Console) -> Box<dyn Progress> {
    if console.quiet {
        Box::new(Silence)
    } else if console.fancy {
        Box::new(Bars::new(indicatif::ProgressDrawTarget::stderr()))
    } else {
        Box::new(Lines::new(std::io::stderr()))
    }
}

struct Silence;

impl Progress for Silence {
    fn update(&mut self, _: &Snapshot) {}

    fn note(&mut self, _: &str) {}

    fn finish(&mut self) {}
}
