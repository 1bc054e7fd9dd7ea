//! Table: the machines of the lab's older HTML page.
//!
//! ```text
//! <tr><th>HOST</th><td><span class="badge badge-success">OK</span></td><td>RDP</td><td>SSH</td><td>X</td></tr>
//! ```
//!
//! The page is one long line. Cells may be blank, rows short, end tags left out; a row of headings has no `<td>`.

use anyhow::ensure;
use html5gum::{StartTag, Token, Tokenizer};

use super::{Listing, MAX_LIST_HOSTS, occupancy};

/// The class of the badge of a machine that is up, and its text.
const UP: (&str, &str) = ("badge-success", "OK");

/// A row while it is read.
#[derive(Default)]
struct Row {
    /// The text of each cell.
    cells: Vec<String>,
    /// Whether some cell is a `<td>`.
    has_data: bool,
    /// Whether the second cell bears the badge of a machine that is up.
    has_badge: bool,
}

/// Reads the rows of all tables in `html`.
///
/// # Errors
/// If they are more than any lab has.
pub fn parse(html: &str) -> anyhow::Result<Listing> {
    let mut listing = Listing::default();
    let mut row = Row::default();
    for Ok(token) in Tokenizer::new(html) {
        ensure!(listing.len() <= MAX_LIST_HOSTS, "it lists more than {MAX_LIST_HOSTS} hosts");
        match token {
            Token::StartTag(tag) if tag.name.as_slice() == b"tr" => {
                std::mem::take(&mut row).add_to(&mut listing)
            }
            Token::EndTag(tag) if tag.name.as_slice() == b"tr" || tag.name.as_slice() == b"table" => {
                std::mem::take(&mut row).add_to(&mut listing);
            }
            Token::StartTag(tag) => row.open(&tag),
            Token::String(text) => {
                if let Some(cell) = row.cells.last_mut() {
                    cell.push_str(&String::from_utf8_lossy(&text));
                }
            }
            _ => {}
        }
    }
    row.add_to(&mut listing);
    Ok(listing)
}

impl Row {
    fn open(&mut self, tag: &StartTag<()>) {
        let name = tag.name.as_slice();
        if name == b"td" || name == b"th" {
            self.cells.push(String::new());
            self.has_data |= name == b"td";
        } else if self.cells.len() == 2 {
            let class = tag.attributes.get(b"class".as_slice());
            let class = class.map(|class| String::from_utf8_lossy(class)).unwrap_or_default();
            self.has_badge |= class.split_whitespace().any(|class| class == UP.0);
        }
    }

    fn add_to(self, listing: &mut Listing) {
        let [name, status, sessions @ ..] = self.cells.as_slice() else { return };
        if self.has_data {
            let alive = self.has_badge && status.trim() == UP.1;
            listing.add(
                name.trim().to_owned(),
                alive,
                occupancy(sessions.iter().map(|n| n.trim().parse().ok())),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "<table><thead><tr><th>H&ocirc;tes</th><th>Statut</th><th>Sessions X</th></tr></thead><tbody>";

    fn up(rows: &str) -> (Vec<(String, Option<u64>)>, usize) {
        let listing = parse(&format!("{HEAD}{rows}</tbody></table>")).unwrap();
        assert!(listing.refused.is_empty(), "{:?}", listing.refused);
        (listing.up.into_iter().map(|c| (c.name, c.occupancy)).collect(), listing.down)
    }

    #[test]
    fn reads_rows_as_the_page_has_them() {
        let up_row = r#"<tr><th>tp-m1-05</th><td a="b"><span class="badge badge-success">OK</span></td>"#;
        let down_row =
            r#"<tr><th>tp-ariel</th><td><span class="badge badge-danger">Indisponible</span></td>"#;
        let rows = format!("{up_row}<td>1</td><td></td><td>2</td></tr>{down_row}<td></td></tr>");
        assert_eq!(up(&rows), (vec![("tp-m1-05".to_owned(), Some(3))], 1));
    }

    #[test]
    fn blank_and_missing_cells_leave_the_occupancy_open() {
        let rows = r#"<tr><th>a</th><td><span class="badge badge-success">OK</span></td><td> </td><td>?</td></tr>
            <tr><th> b </th><td><span class='badge-success x'> OK </span></td></tr>"#;
        assert_eq!(up(rows), (vec![("a".to_owned(), None), ("b".to_owned(), None)], 0));
    }

    #[test]
    fn only_the_badge_with_its_text_in_the_second_cell_counts() {
        let rows = r#"<tr><th>a</th><td>OK</td></tr>
            <tr><th>b</th><td><span class="badge-success">Bient&ocirc;t</span></td></tr>
            <tr><th>c</th><td>OK</td><td><span class="badge-success">OK</span></td></tr>
            <tr><th>d</th><td><span class="badge-success-not">OK</span></td></tr>
            <tr><th>e</th></tr>"#;
        assert_eq!(up(rows), (vec![], 4));
    }

    #[test]
    fn end_tags_may_be_left_out() {
        let rows = r#"<tr><th>a<td><span class="badge-success">OK</span><td>1
            <tr><th>b<td><i class="badge-success">OK</i><td>0"#;
        assert_eq!(up(rows), (vec![("a".to_owned(), Some(1)), ("b".to_owned(), Some(0))], 0));
    }
}
