//! Net: connections, made and accepted here and nowhere else.
