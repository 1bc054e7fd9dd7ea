//! Input: files and standard input, cut into splits that can be read again.
