//! Site: candidates for workers, from the lab's page (JSON or HTML), a text list, or a range.
