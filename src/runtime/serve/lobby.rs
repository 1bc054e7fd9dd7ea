//! Lobby: connections of which nobody knows yet whose they are: few at a time, none for long, and told of sparingly.
//!
//! Anybody can connect. Whoever has not said in time who it is goes; and where there is no more room, the one that has
//! waited longest goes, of the host that has most of them here. Who belongs here is done within milliseconds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::link::Control;

/// Connections in the lobby. Each costs a thread and some 30 KiB.
pub(super) const MOST_WAITING: usize = 128;

/// Threads of connections that were shown out and have not noticed yet. With more, no new ones are accepted.
const MOST_LEAVING: usize = 128;

/// How often strangers are mentioned in the log at most.
const MENTION_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// The connections of which nobody knows yet whose they are. A lock: each is dealt with on a thread of its own.
#[derive(Default)]
pub(super) struct Lobby {
    guests: Mutex<Guests>,
    left: Condvar,
}

#[derive(Default)]
struct Guests {
    /// In the order in which they came.
    waiting: VecDeque<Guest>,
    /// Shown out, but not gone.
    leaving: usize,
    next: u64,
    strangers: Strangers,
}

struct Guest {
    id: u64,
    host: String,
    control: Arc<dyn Control>,
}

/// What is not in the log yet.
#[derive(Default)]
struct Strangers {
    unmentioned: u64,
    mentioned: Option<Instant>,
}

/// A place in the lobby; given back when it is dropped.
pub(super) struct Place {
    lobby: Arc<Lobby>,
    id: u64,
    is_given_back: bool,
}

impl Place {
    /// Leaves the lobby for good. `false` for one that has been shown out meanwhile, who is told that its connection
    /// has ended: then nothing may come of what it has said, for it may say it again.
    pub(super) fn leave(mut self) -> bool {
        self.is_given_back = true;
        self.lobby.give_back(self.id)
    }
}

impl Lobby {
    /// Takes a connection from `host` in. Waits while too many that were shown out are still there.
    pub(super) fn enter(self: &Arc<Self>, host: &str, control: &Arc<dyn Control>) -> Place {
        let mut guests = self.guests();
        while guests.leaving >= MOST_LEAVING {
            guests = self.left.wait(guests).unwrap_or_else(PoisonError::into_inner);
        }
        if guests.waiting.len() >= MOST_WAITING {
            guests.show_one_out();
        }
        let id = guests.next;
        guests.next += 1;
        guests.waiting.push_back(Guest { id, host: host.to_owned(), control: control.clone() });
        Place { lobby: self.clone(), id, is_given_back: false }
    }

    /// Returns what to log of a connection that came to nothing; `None` if enough was said lately.
    pub(super) fn mention(&self, peer: &str, cause: &str) -> Option<String> {
        let mut guests = self.guests();
        let strangers = &mut guests.strangers;
        strangers.unmentioned += 1;
        if strangers.mentioned.is_some_and(|mentioned| mentioned.elapsed() < MENTION_INTERVAL) {
            return None;
        }
        strangers.mentioned = Some(Instant::now());
        let others = match std::mem::take(&mut strangers.unmentioned) {
            1 => String::new(),
            number => format!(" ({} more since the last such line)", number - 1),
        };
        Some(format!("{peer}: {cause}{others}"))
    }

    /// Tells whether the guest was still there, and not shown out.
    fn give_back(&self, id: u64) -> bool {
        let mut guests = self.guests();
        let at = guests.waiting.iter().position(|guest| guest.id == id);
        match at {
            Some(at) => _ = guests.waiting.remove(at),
            None => guests.leaving -= 1,
        }
        self.left.notify_all();
        at.is_some()
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn show_one_out(&mut self) {
        let mut of_host: BTreeMap<&str, usize> = BTreeMap::new();
        for guest in &self.waiting {
            *of_host.entry(&guest.host).or_default() += 1;
        }
        let most = of_host.values().copied().max().unwrap_or(0);
        let oldest = self.waiting.iter().position(|guest| of_host.get(guest.host.as_str()) == Some(&most));
        if let Some(guest) = oldest.and_then(|at| self.waiting.remove(at)) {
            guest.control.close();
            self.leaving += 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.lobby.give_back(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default)]
    struct Door(AtomicBool);

    impl Control for Door {
        fn set_deadline(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn close(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn enter(lobby: &Arc<Lobby>, host: &str) -> (Place, Arc<Door>) {
        let door = Arc::<Door>::default();
        let control: Arc<dyn Control> = door.clone();
        (lobby.enter(host, &control), door)
    }

    fn is_shut((_, door): &(Place, Arc<Door>)) -> bool {
        door.0.load(Ordering::SeqCst)
    }

    #[test]
    fn the_oldest_of_the_host_with_most_goes_for_a_new_one() {
        let lobby = Arc::<Lobby>::default();
        let honest = enter(&lobby, "a");
        let strangers: Vec<_> = (1..MOST_WAITING).map(|_| enter(&lobby, "b")).collect();
        assert!(!strangers.iter().any(is_shut));
        let more: Vec<_> = (0..3).map(|_| enter(&lobby, "b")).collect();
        assert!(strangers[..3].iter().all(is_shut) && !strangers[3..].iter().any(is_shut));
        let other = enter(&lobby, "c");
        assert!(is_shut(&strangers[3]) && !more.iter().chain([&honest, &other]).any(is_shut));
        drop((strangers, more, honest, other));
        let guests = lobby.guests();
        assert_eq!((guests.waiting.len(), guests.leaving), (0, 0));
    }

    #[test]
    fn who_was_shown_out_does_not_come_in() {
        let lobby = Arc::<Lobby>::default();
        let mut all: Vec<_> = (0..=MOST_WAITING).map(|_| enter(&lobby, "b").0).collect();
        assert!(!all.remove(0).leave());
        assert!(all.remove(0).leave());
        drop(all);
        let guests = lobby.guests();
        assert_eq!((guests.waiting.len(), guests.leaving), (0, 0));
    }

    #[test]
    fn nobody_is_let_in_while_too_many_are_on_their_way_out() {
        let lobby = Arc::<Lobby>::default();
        let mut all: Vec<_> = (0..MOST_WAITING + MOST_LEAVING).map(|_| enter(&lobby, "b")).collect();
        std::thread::scope(|scope| {
            let late = scope.spawn(|| enter(&lobby, "a"));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!late.is_finished());
            all.remove(0);
            assert!(!is_shut(&late.join().expect("it gets in")));
        });
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let lobby = Lobby::default();
        assert_eq!(lobby.mention("x:1", "garbage").as_deref(), Some("x:1: garbage"));
        assert!((0..1000).all(|_| lobby.mention("x:2", "garbage").is_none()));
        std::thread::sleep(MENTION_INTERVAL);
        let told = lobby.mention("x:3", "silent").expect("after a while");
        assert_eq!(told, "x:3: silent (1000 more since the last such line)");
    }
}
