//! Progress: shows a run while it goes on, on a terminal through indicatif, in milestone lines elsewhere.
