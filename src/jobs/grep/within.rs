//! Within: makes a pattern one that matches within lines, so that a whole text can be searched at once.

use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};
use regex_syntax::{Error, ParserBuilder};

/// Returns the pattern that matches in a text what `pattern` matches in its lines, one by one: it matches no line break,
/// and the beginning and the end of the text are those of any line.
///
/// # Errors
/// Says what is wrong with the pattern.
pub(super) fn within_lines(pattern: &str, ignore_case: bool) -> Result<String, String> {
    let mut parser = ParserBuilder::new().utf8(false).multi_line(true).case_insensitive(ignore_case).build();
    let parsed = parser.parse(pattern).map_err(|error| {
        let cause = match error {
            Error::Parse(error) => error.kind().to_string(),
            Error::Translate(error) => error.kind().to_string(),
            error => error.to_string(),
        };
        format!("--pattern {pattern:?}: {cause}")
    })?;
    Ok(within(parsed).to_string())
}

/// The parser bounds how deep this goes.
fn within(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(without_line_breaks(class)),
        HirKind::Look(Look::Start) => Hir::look(Look::StartLF),
        HirKind::Look(Look::End) => Hir::look(Look::EndLF),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(Repetition { min, max, greedy, sub }) => {
            Hir::repetition(Repetition { min, max, greedy, sub: Box::new(within(*sub)) })
        }
        HirKind::Capture(Capture { index, name, sub }) => {
            Hir::capture(Capture { index, name, sub: Box::new(within(*sub)) })
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(within).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(within).collect()),
    }
}

fn without_line_breaks(class: Class) -> Class {
    match class {
        Class::Unicode(mut class) => {
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Class::Unicode(class)
        }
        Class::Bytes(mut class) => {
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Class::Bytes(class)
        }
    }
}
