//! Probe: the facts of a host, gathered in one SSH session.
