//! Name: what the name of an output file says of its form.

use std::ffi::OsStr;
use std::path::Path;

use super::Format;
use super::packed::Packing;

/// What a file's name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub packing: Option<Packing>,
    /// `None` if the name says nothing of it.
    pub format: Option<Format>,
}

/// Reads the suffixes of `path`: how it is packed, and before that which format it has, as in `x.csv.gz`.
pub fn read(path: &Path) -> Named {
    let packing = match suffix(path).as_deref() {
        Some("gz") => Some(Packing::Gzip),
        Some("zst") => Some(Packing::Zstd),
        _ => None,
    };
    let inner = match (packing, path.file_stem()) {
        (Some(_), Some(stem)) => Path::new(stem),
        _ => path,
    };
    let format = match suffix(inner).as_deref() {
        Some("tsv") => Some(Format::Tsv),
        Some("csv") => Some(Format::Csv),
        Some("json" | "jsonl" | "ndjson") => Some(Format::Json),
        Some("parquet") => Some(Format::Parquet),
        _ => None,
    };
    Named { packing, format }
}

fn suffix(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_format_and_packing() {
        for (name, packing, format) in [
            ("out", None, None),
            ("out.tsv", None, Some(Format::Tsv)),
            ("out.txt", None, None),
            ("dir.csv/out", None, None),
            ("a/out.CSV", None, Some(Format::Csv)),
            ("out.jsonl", None, Some(Format::Json)),
            ("out.ndjson.zst", Some(Packing::Zstd), Some(Format::Json)),
            ("a b/out.csv.gz", Some(Packing::Gzip), Some(Format::Csv)),
            ("out.GZ", Some(Packing::Gzip), None),
            ("out.gz.csv", None, Some(Format::Csv)),
            ("out.csv.gz.gz", Some(Packing::Gzip), None),
            (".gz", None, None),
            ("out.parquet", None, Some(Format::Parquet)),
            ("out.parquet.zst", Some(Packing::Zstd), Some(Format::Parquet)),
        ] {
            assert_eq!(read(Path::new(name)), Named { packing, format }, "{name}");
        }
    }
}
