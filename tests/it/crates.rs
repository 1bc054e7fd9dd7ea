//! Crates: what we depend on is licensed as we allow, comes from where we say, and is the same for the fuzzer.
//!
//! `sh .ci/deny` checks more, where cargo-deny can be had; this needs nothing but cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use toml_edit::de::from_str;

#[test]
fn every_crate_has_a_licence_and_a_source_that_are_allowed() {
    let rules: Rules = read(".cargo/deny.toml");
    let mut found = Vec::new();
    for Package { name, license, source, .. } in metadata().packages {
        // Ours.
        let Some(source) = source else { continue };
        let licence = license.unwrap_or_default();
        let excepted = rules.licenses.exceptions.iter().filter(|exception| exception.name == name);
        let allowed: BTreeSet<&str> =
            excepted.flat_map(|of| &of.allow).chain(&rules.licenses.allow).map(String::as_str).collect();
        if !is_met(&licence, &allowed) {
            found.push(format!("{name}: licence {licence:?}"));
        }
        let registry = source.strip_prefix("registry+");
        if !registry
            .is_some_and(|registry| rules.sources.allow_registry.iter().any(|known| known == registry))
        {
            found.push(format!("{name}: source {source}"));
        }
    }
    assert!(found.is_empty(), "not allowed by .cargo/deny.toml:\n{}", found.join("\n"));
}

#[test]
fn licences_are_understood() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for (licence, is_met) in [
        ("MIT", true),
        ("MIT/GPL-2.0", true),
        ("GPL-2.0 OR MIT", true),
        ("GPL-2.0 AND MIT", false),
        ("(GPL-2.0 OR MIT) AND ISC", true),
        ("MIT OR ISC AND GPL-2.0", true),
        ("(MIT OR ISC) AND GPL-2.0", false),
        ("MIT WITH exception", false),
        ("", false),
    ] {
        assert_eq!(self::is_met(licence, &allowed), is_met, "{licence}");
    }
}

#[test]
fn the_fuzzer_is_built_with_the_same_crates() {
    let (ours, fuzzer) = (versions("Cargo.lock"), versions("tests/fuzz/Cargo.lock"));
    let differ: Vec<_> = fuzzer
        .iter()
        .filter(|(name, versions)| ours.get(*name).is_some_and(|ours| !versions.is_subset(ours)))
        .collect();
    let advice = "cargo update --manifest-path tests/fuzz/Cargo.toml --precise VERSION NAME";
    assert!(differ.is_empty(), "tests/fuzz/Cargo.lock has other versions; {advice}: {differ:?}");
}

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
}

/// Tells whether somebody who accepts `allowed` may use what is licensed under an SPDX expression.
fn is_met(licence: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = licence.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = Licence(spaced.split_whitespace().rev().map(String::from).collect());
    words.any(allowed) && words.0.is_empty()
}

/// What is left of an expression, word by word, the next one last.
struct Licence(Vec<String>);

impl Licence {
    fn any(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut met = self.all(allowed);
        while self.0.pop_if(|word| word == "OR").is_some() {
            met |= self.all(allowed);
        }
        met
    }

    fn all(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut met = self.one(allowed);
        while self.0.pop_if(|word| word == "AND").is_some() {
            met &= self.one(allowed);
        }
        met
    }

    fn one(&mut self, allowed: &BTreeSet<&str>) -> bool {
        match self.0.pop().as_deref() {
            Some("(") => {
                let met = self.any(allowed);
                met & self.0.pop_if(|word| word == ")").is_some()
            }
            Some(licence) => {
                let excepted = self.0.pop_if(|word| word == "WITH").and_then(|_| self.0.pop());
                excepted.is_none() && allowed.contains(licence)
            }
            None => false,
        }
    }
}

/// What cargo knows of the crates that are built on a machine such as this one.
fn metadata() -> Metadata {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
    let version = String::from_utf8(version).expect("it speaks UTF-8");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("it names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is what cargo promises")
}

fn versions(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Locked { name, version } in read::<Lock>(lock).package {
        versions.entry(name).or_default().insert(version);
    }
    versions
}

fn read<T: for<'de> Deserialize<'de>>(path: &str) -> T {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&path).expect("a file of the repository");
    from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
