//! Streaming: any command as a job, by the line protocol of Hadoop Streaming.
//!
//! Commands are executed by the workers. A map command gets the lines of a split on standard input and writes lines, of
//! which the key is what stands before the first TAB. A reduce command gets all lines of some keys, sorted by key; the
//! lines that it writes are the result. Commands see bytes as they are.

mod errors;
mod lines;
mod place;
mod pool;
mod process;
mod rests;
mod ship;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use crate::job::{Emit, Job, Pieces, Records};
use crate::wire::frame::MAX_CONTROL_BYTES;

use lines::{Gathered, parted};
use place::Place;
use pool::Pool;
use process::{Process, Role, Take};

pub use rests::Rests;
pub use ship::Shipped;

/// Runs commands. One process maps a split, and one reduces a partition.
pub struct Streaming {
    map: Arc<str>,
    combine: Option<Arc<str>>,
    reduce: Option<Arc<str>>,
    ship: Vec<Shipped>,
    pool: Pool,
    /// Where they are executed, once there was something to execute: the client executes nothing. A lock: the first
    /// thread makes it.
    place: Mutex<Option<Arc<Place>>>,
}

/// The commands.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Params {
    /// Map with this command, which `sh -c` executes on the workers: it reads the lines of a split on standard input,
    /// and writes lines `key TAB value`
    #[arg(long, value_name = "CMD")]
    pub map: String,

    /// Put what each map command writes, sorted, through this one on the spot; it writes fewer such lines
    #[arg(long, value_name = "CMD")]
    pub combine: Option<String>,

    /// Reduce with this command: it reads lines sorted by key, all those of a key, and writes the lines of the result.
    /// Without it those of the map are the result
    #[arg(long, value_name = "CMD")]
    pub reduce: Option<String>,

    /// Bring this file to where the commands are executed; may be given several times
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(Shipped::read))]
    pub ship: Vec<Shipped>,
}

/// Bytes of a message that are left for what is no parameter: the names of a thousand workers, above all.
const OTHER_BYTES: usize = 192 << 10;

impl Job for Streaming {
    const NAME: &'static str = "streaming";
    const ABOUT: &'static str =
        "Run any commands as a job: lines of `key TAB value`, as Hadoop Streaming does";
    const COLUMNS: [&'static str; 2] = ["key", "value"];
    const PICKED_BY: Option<&'static str> = Some("map");
    const NEEDS_TRUST: bool = true;
    const REDUCES: bool = true;

    type Params = Params;
    type Value = Rests;

    fn new(params: Params) -> Result<Self, String> {
        check(&params)?;
        let Params { map, combine, reduce, ship } = params;
        Ok(Self {
            map: map.into(),
            combine: combine.map(Arc::from),
            reduce: reduce.map(Arc::from),
            ship,
            pool: Pool::default(),
            place: Mutex::default(),
        })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<Rests>) -> Result<(), String> {
        self.map_split(&mut |map| map(records), emit)
    }

    fn map_split(&self, pieces: Pieces<'_>, emit: &mut impl Emit<Rests>) -> Result<(), String> {
        let Some(combine) = &self.combine else { return self.execute(pieces, &mut Pairs(emit)) };
        let mut gathering = Gathering { gathered: Gathered::default(), emit };
        self.execute(pieces, &mut gathering)?;
        let Gathering { mut gathered, emit } = gathering;
        let bytes = gathered.bytes();
        let mut input = Input::of(Process::start(&self.place()?, Role::Combine, combine, None)?);
        let mut combined = Combined { emit, bytes };
        gathered.sorted().try_for_each(|line| input.line(line, b"", &mut combined))?;
        input.finish(&mut combined)
    }

    fn combine(&self, into: &mut Rests, other: Rests) {
        into.merge(other);
    }

    fn reduce(
        &self,
        groups: &mut dyn Iterator<Item = (&[u8], Rests)>,
        emit: &mut dyn Emit<Rests>,
    ) -> Result<(), String> {
        // What is mapped again, because a worker was lost, starts anew.
        self.pool.clear();
        let Some(reduce) = &self.reduce else { return write_out(groups, emit) };
        let mut results = Results(emit);
        let mut input = Input::of(Process::start(&self.place()?, Role::Reduce, reduce, None)?);
        for (key, rests) in groups {
            rests.for_each(|rest, times| (0..times).try_for_each(|_| input.line(key, rest, &mut results)))?;
        }
        input.finish(&mut results)
    }
}

impl Streaming {
    /// Has a process of the map command read `pieces`, and `take` take what it writes.
    fn execute(&self, pieces: Pieces<'_>, take: &mut dyn Take) -> Result<(), String> {
        let place = self.place()?;
        let mut process = None;
        pieces(&mut |records| {
            let process = match &mut process {
                Some(process) => process,
                none => none.insert(self.pool.take(&place, &self.map, records.file())?),
            };
            process.write(records.bytes(), take)
        })?;
        let process = match process {
            Some(process) => process,
            // An empty split is one, too.
            None => Process::start(&place, Role::Map, &self.map, None)?,
        };
        process.finish(take)
    }

    fn place(&self) -> Result<Arc<Place>, String> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *place {
            Some(place) => Ok(place.clone()),
            none => Ok(none.insert(Arc::new(Place::make(&self.ship)?)).clone()),
        }
    }
}

/// Refuses what cannot be executed, or cannot travel.
fn check(params: &Params) -> Result<(), String> {
    let Params { map, combine, reduce, ship } = params;
    let commands = [("--map", Some(map)), ("--combine", combine.as_ref()), ("--reduce", reduce.as_ref())];
    for (flag, command) in commands.iter().filter_map(|(flag, command)| Some((flag, (*command)?))) {
        if command.trim().is_empty() || command.contains('\0') {
            return Err(format!("{flag} takes a command"));
        }
    }
    let mut names: Vec<&str> = ship.iter().map(Shipped::name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("--ship: two files are called {:?}", twice[0]));
    }
    if let Some(strange) = ship.iter().find(|file| !file.is_named_well()) {
        return Err(format!("--ship: {:?} is no name of a file", strange.name()));
    }
    // They are a text in a text.
    let written = serde_json::to_string(params).and_then(|json| serde_json::to_string(&json));
    let bytes = written.map_err(|error| error.to_string())?.len();
    let most = MAX_CONTROL_BYTES - OTHER_BYTES;
    if bytes > most {
        let files: usize = ship.iter().map(Shipped::bytes).sum();
        return Err(format!(
            "the commands and the files of --ship ({files} bytes) take {bytes} bytes on their way, more than the \
             {most} that may be; put larger files where the workers see them"
        ));
    }
    Ok(())
}

/// Makes each line of a map the result.
fn write_out(
    groups: &mut dyn Iterator<Item = (&[u8], Rests)>,
    emit: &mut dyn Emit<Rests>,
) -> Result<(), String> {
    let mut line = Vec::new();
    for (number, (key, rests)) in groups.enumerate() {
        rests.for_each(|rest, times| {
            line.clear();
            line.extend_from_slice(key);
            line.extend_from_slice(rest);
            emit.pair(&line, Rests::times(b"", times));
            Ok::<(), String>(())
        })?;
        if number % 1024 == 0 {
            emit.may_hold(0)?;
        }
    }
    Ok(())
}

/// Lines that are written to a process, many at a time.
struct Input {
    process: Process,
    text: Vec<u8>,
}

/// Bytes that are written at a time.
const WRITE_BYTES: usize = 256 << 10;

impl Input {
    fn of(process: Process) -> Self {
        Self { process, text: Vec::with_capacity(WRITE_BYTES) }
    }

    /// Writes a line, of a key and the rest.
    fn line(&mut self, key: &[u8], rest: &[u8], take: &mut dyn Take) -> Result<(), String> {
        self.text.extend_from_slice(key);
        self.text.extend_from_slice(rest);
        self.text.push(b'\n');
        if self.text.len() < WRITE_BYTES {
            return Ok(());
        }
        let written = self.process.write(&self.text, take);
        self.text.clear();
        written
    }

    fn finish(mut self, take: &mut dyn Take) -> Result<(), String> {
        self.process.write(&self.text, take)?;
        self.process.finish(take)
    }
}

/// Emits what a map or a combine writes.
struct Pairs<'e, E>(&'e mut E);

impl<E: Emit<Rests>> Take for Pairs<'_, E> {
    fn line(&mut self, line: &[u8]) {
        let (key, rest) = parted(line);
        self.0.pair(key, Rests::one(rest));
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        self.0.may_hold(bytes)
    }
}

/// Gathers what a map writes, for a combine.
struct Gathering<'e, E> {
    gathered: Gathered,
    emit: &'e mut E,
}

impl<E: Emit<Rests>> Take for Gathering<'_, E> {
    fn line(&mut self, line: &[u8]) {
        self.gathered.push(line);
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        self.emit.may_hold(self.gathered.bytes() + bytes)
    }
}

/// Emits what a combine writes while what it reads is held, too.
struct Combined<'e, E> {
    emit: &'e mut E,
    bytes: usize,
}

impl<E: Emit<Rests>> Take for Combined<'_, E> {
    fn line(&mut self, line: &[u8]) {
        Pairs(&mut *self.emit).line(line);
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        self.emit.may_hold(self.bytes + bytes)
    }
}

/// Makes each line of a reduce one of the result.
struct Results<'e>(&'e mut dyn Emit<Rests>);

impl Take for Results<'_> {
    fn line(&mut self, line: &[u8]) {
        self.0.pair(line, Rests::one(b""));
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        self.0.may_hold(bytes)
    }
}
