//! Record: writes what `discover` found into the hosts file, around what the user wrote by hand.
//!
//! A host is the user's if it bears a setting, a `keep`, no facts, or a comment: inside it, or right above it. It
//! stays where it is, found or not. The others were written by an earlier discover; they are dropped, and those
//! found now are written after the user's, in the order given. Comments that a blank line sets apart from the host
//! below them belong to the file, and stay though that host goes.

use toml_edit::{
    ArrayOfTables, Decor, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value, value,
};

use super::{Entry, Facts, HostsFile, Settings};
use crate::edge::failure::HostName;

impl HostsFile {
    /// Makes `user` the default of the file.
    pub fn set_default_user(&mut self, user: &str) {
        self.defaults.user = Some(user.to_owned());
        if let Some(defaults) = self.document.get_mut("defaults").and_then(Item::as_table_like_mut) {
            return set_in_place(defaults, "user", user.into());
        }
        let mut defaults = Table::new();
        defaults.insert("user", value(user));
        set_prefix(&mut defaults, &self.take_head(), "");
        // Positions of what was read start at zero, so this comes first.
        defaults.set_position(Some(-1));
        self.document.insert("defaults", Item::Table(defaults));
    }

    /// Records the hosts that were found, with their facts, and returns how many that an earlier discover had
    /// recorded were dropped.
    pub fn record(&mut self, found: &[(HostName, Facts)]) -> usize {
        let mut kept = ArrayOfTables::new();
        let mut entries = Vec::new();
        let mut comments = String::new();
        let mut dropped = 0;
        let was_empty = self.entries.is_empty();
        for (mut table, mut entry) in self.take_hosts().into_iter().zip(std::mem::take(&mut self.entries)) {
            let name = self.full_name(&entry.name);
            let facts = found.iter().find(|(found, _)| found.0 == name).map(|(_, facts)| facts);
            let above = prefix(&table);
            let (of_file, own) = split_comments(&above);
            add_comments(&mut comments, of_file);
            if !is_by_hand(&table, own) {
                dropped += usize::from(facts.is_none());
                continue;
            }
            if let Some(facts) = facts {
                write_facts(&mut table, facts);
                entry.facts = Some(facts.clone());
            }
            set_prefix(&mut table, &std::mem::take(&mut comments), own);
            kept.push(table);
            entries.push(entry);
        }
        let is_kept = |name: &HostName| entries.iter().any(|entry| self.full_name(&entry.name) == name.0);
        let new: Vec<_> = found.iter().filter(|(name, _)| !is_kept(name)).collect();
        if was_empty {
            add_comments(&mut comments, &take_trailing(&mut self.document));
        }
        for (name, facts) in new {
            let mut table = Table::new();
            table.insert("name", value(&name.0));
            write_facts(&mut table, facts);
            set_prefix(&mut table, &std::mem::take(&mut comments), "\n");
            kept.push(table);
            entries.push(Entry {
                name: name.0.clone(),
                settings: Settings::default(),
                facts: Some(facts.clone()),
            });
        }
        let trailing = self.document.trailing().as_str().unwrap_or_default().to_owned();
        self.document.set_trailing(format!("{comments}{trailing}"));
        self.entries = entries;
        if !kept.is_empty() {
            self.document.insert("host", Item::ArrayOfTables(kept));
        }
        dropped
    }

    fn take_hosts(&mut self) -> Vec<Table> {
        match self.document.remove("host") {
            Some(Item::ArrayOfTables(tables)) => tables.into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Takes the comments that head the file off what they are attached to.
    fn take_head(&mut self) -> String {
        if self.document.is_empty() {
            return take_trailing(&mut self.document);
        }
        let first =
            self.document.get_mut("host").and_then(Item::as_array_of_tables_mut).and_then(|t| t.get_mut(0));
        let Some(first) = first else { return String::new() };
        let above = prefix(first);
        let (of_file, own) = split_comments(&above);
        set_prefix(first, "", &format!("\n{}", own.trim_start_matches('\n')));
        of_file.to_owned()
    }
}

/// Tells whether the user wrote something into the host or right above it.
fn is_by_hand(table: &Table, own: &str) -> bool {
    let discovered = |key: &str| key == "name" || key == "facts";
    let has_comment = own.contains('#') || suffix(table.decor()).contains('#') || comments_in(table);
    !table.contains_key("facts") || table.iter().any(|(key, _)| !discovered(key)) || has_comment
}

/// Tells whether a comment stands before, between or after the values of `table`.
fn comments_in(table: &dyn TableLike) -> bool {
    let in_decor = |decor: &Decor| [decor.prefix(), decor.suffix()].into_iter().flatten().any(in_raw);
    table.iter().any(|(name, item)| {
        let by_key =
            table.key(name).is_some_and(|key| in_decor(key.leaf_decor()) || in_decor(key.dotted_decor()));
        let by_item = match item {
            Item::Value(Value::InlineTable(inline)) => in_decor(inline.decor()) || in_raw(inline.trailing()),
            Item::Value(value) => in_decor(value.decor()),
            Item::Table(table) => in_decor(table.decor()),
            _ => false,
        };
        by_key || by_item || item.as_table_like().is_some_and(comments_in)
    })
}

fn in_raw(raw: &RawString) -> bool {
    raw.as_str().is_some_and(|text| text.contains('#'))
}

/// Writes `facts` over those that are there, so that whatever else stands among them stays.
fn write_facts(table: &mut Table, facts: &Facts) {
    // A host that the user wrote by name alone would look like a discovered one from now on.
    if !table.contains_key("facts") && table.len() == 1 && table.position().is_some() {
        table.insert("keep", value(true));
    }
    let values: [(&str, Value); 7] = [
        ("cores", i64::from(facts.cores).into()),
        ("memory_mib", integer(facts.memory_mib)),
        ("arch", facts.arch.as_str().into()),
        ("libc", facts.libc.as_str().into()),
        ("load_percent", i64::from(facts.load_percent).into()),
        ("free_mib", integer(facts.free_mib)),
        ("network_home", facts.network_home.into()),
    ];
    let there = table.entry("facts").or_insert_with(|| value(InlineTable::new()));
    if let Some(there) = there.as_table_like_mut() {
        values.into_iter().for_each(|(key, value)| set_in_place(there, key, value));
    }
}

/// TOML has no integer above `i64::MAX`.
fn integer(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// Sets a value and keeps the comments around the one it replaces.
fn set_in_place(table: &mut dyn TableLike, key: &str, mut new: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

/// Cuts the lines above a host after the last blank one: the file's comments, then the host's own.
fn split_comments(prefix: &str) -> (&str, &str) {
    let mut cut = 0;
    let mut end = 0;
    for line in prefix.split_inclusive('\n') {
        end += line.len();
        if line.trim().is_empty() {
            cut = end;
        }
    }
    let (of_file, own) = prefix.split_at(cut);
    // Blank lines alone are spacing: they go with their host.
    if of_file.trim().is_empty() { ("", prefix) } else { (of_file, own) }
}

fn take_trailing(document: &mut DocumentMut) -> String {
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    document.set_trailing("");
    trailing
}

fn prefix(table: &Table) -> String {
    table.decor().prefix().and_then(RawString::as_str).unwrap_or("\n").to_owned()
}

fn suffix(decor: &Decor) -> &str {
    decor.suffix().and_then(RawString::as_str).unwrap_or_default()
}

/// Appends comments of the file, one blank line apart.
fn add_comments(comments: &mut String, more: &str) {
    if comments.is_empty() {
        comments.push_str(more);
    } else if !more.trim().is_empty() {
        let so_far = comments.trim_end_matches('\n').len();
        comments.truncate(so_far);
        comments.push_str("\n\n");
        comments.push_str(more.trim_start_matches('\n'));
    }
}

/// Puts the file's comments and the host's own above a host, with a blank line between.
fn set_prefix(table: &mut Table, of_file: &str, own: &str) {
    let gap = match of_file {
        "" => "",
        text if text.ends_with("\n\n") => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let own = if of_file.is_empty() { own } else { own.trim_start_matches('\n') };
    table.decor_mut().set_prefix(format!("{of_file}{gap}{own}"));
}

#[cfg(test)]
mod tests;
