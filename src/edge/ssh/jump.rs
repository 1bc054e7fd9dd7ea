//! Jump: how many sessions log in through one jump host at a time.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};

/// Logins to one jump host at a time: sshd drops connections at random when ten are not logged in yet (`MaxStartups`).
const LOGINS_AT_ONCE: usize = 6;

static GATES: Mutex<Option<HashMap<(String, u16), usize>>> = Mutex::new(None);
static GATE_OPENED: Condvar = Condvar::new();

/// Leave to log in to a jump host, given back when it is dropped.
pub struct Gate {
    place: (String, u16),
}

impl Gate {
    /// Waits for leave. Those who have it are bound by deadlines of their own.
    pub fn enter(host: &str, port: u16) -> Gate {
        let place = (host.to_string(), port);
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let inside = gates.get_or_insert_default().entry(place.clone()).or_default();
            if *inside < LOGINS_AT_ONCE {
                *inside += 1;
                return Gate { place };
            }
            gates = GATE_OPENED.wait(gates).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inside) = gates.get_or_insert_default().get_mut(&self.place) {
            *inside -= 1;
        }
        GATE_OPENED.notify_all();
    }
}
