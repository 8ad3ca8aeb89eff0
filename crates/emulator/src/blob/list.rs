//! Listing: prefix, delimiter, pages and the marker between them.

use std::{collections::BTreeMap, ops::Bound};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    errors::{ErrorCode, StorageError},
    state::Blob,
};

/// PROTOCOL: a page has at most 5,000 entries, whatever the request says.
const MAX_PAGE: usize = 5000;

/// Which part of a listing is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    pub(crate) marker: String,
    pub(crate) max_results: Option<usize>,
}

impl ListQuery {
    /// The entries a page may hold.
    pub(crate) fn page_size(&self) -> usize {
        self.max_results.unwrap_or(MAX_PAGE).min(MAX_PAGE)
    }
}

/// One entry of a page.
#[derive(Debug)]
pub(crate) enum ListItem<'a, T> {
    Entry(&'a str, &'a T),
    Prefix(&'a str),
}

/// One page, with the marker of the next one if there is more.
#[derive(Debug)]
pub(crate) struct ListPage<'a, T> {
    pub(crate) items: Vec<ListItem<'a, T>>,
    pub(crate) next_marker: Option<String>,
}

/// Blobs of one page.
pub(crate) type BlobPage<'a> = ListPage<'a, Blob>;

/// Cuts one page out of `entries`.
pub(crate) fn page<'a, T>(
    entries: &'a BTreeMap<String, T>,
    query: &ListQuery,
) -> Result<ListPage<'a, T>, StorageError> {
    let start = match query.marker.as_str() {
        "" => query.prefix.clone(),
        marker => decode_marker(marker)
            .ok_or_else(|| {
                StorageError::query(ErrorCode::InvalidQueryParameterValue, "marker", marker)
            })?
            .max(query.prefix.clone()),
    };
    let mut items: Vec<ListItem<'a, T>> = Vec::new();
    let range = (Bound::Included(start.as_str()), Bound::Unbounded);
    for (name, value) in entries.range::<str, _>(range) {
        let Some(rest) = name.strip_prefix(query.prefix.as_str()) else {
            break;
        };
        let item = match rest.find(query.delimiter.as_str()) {
            Some(at) if !query.delimiter.is_empty() => {
                let end = query.prefix.len() + at + query.delimiter.len();
                ListItem::Prefix(&name[..end])
            }
            _ => ListItem::Entry(name, value),
        };
        if let (ListItem::Prefix(new), Some(ListItem::Prefix(last))) = (&item, items.last())
            && new == last
        {
            continue;
        }
        if items.len() == query.page_size() {
            let next = match item {
                ListItem::Entry(name, _) | ListItem::Prefix(name) => name,
            };
            return Ok(ListPage {
                items,
                next_marker: Some(encode_marker(next)),
            });
        }
        items.push(item);
    }
    Ok(ListPage {
        items,
        next_marker: None,
    })
}

// PROTOCOL: a marker is opaque. Ours holds the first name of the next page, so that a blob written
// or deleted between two pages moves nothing else.
fn encode_marker(name: &str) -> String {
    format!("2!{}", URL_SAFE_NO_PAD.encode(name))
}

fn decode_marker(marker: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(marker.strip_prefix("2!")?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    fn all(entries: &BTreeMap<String, ()>, mut query: ListQuery) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        loop {
            let page = page(entries, &query).unwrap();
            let names = page.items.iter().map(|item| match item {
                ListItem::Entry(name, ()) => (*name).to_owned(),
                ListItem::Prefix(name) => format!("<{name}>"),
            });
            pages.push(names.collect());
            match page.next_marker {
                Some(marker) => query.marker = marker,
                None => return pages,
            }
        }
    }

    #[test]
    fn a_prefix_is_a_prefix_of_the_text() {
        let entries = entries(&["a", "a/1", "a/2", "ab", "b"]);
        let query = |prefix: &str| ListQuery {
            prefix: prefix.to_owned(),
            ..ListQuery::default()
        };
        assert_eq!(all(&entries, query("a/")), [["a/1", "a/2"]]);
        assert_eq!(all(&entries, query("a")), [["a", "a/1", "a/2", "ab"]]);
        assert_eq!(all(&entries, query("A")), [Vec::<String>::new()]);
    }

    #[test]
    fn pages_join_without_gap_or_repeat() {
        let entries = entries(&["a", "b", "c", "d", "e"]);
        let query = ListQuery {
            max_results: Some(2),
            ..ListQuery::default()
        };
        assert_eq!(
            all(&entries, query),
            [vec!["a", "b"], vec!["c", "d"], vec!["e"]]
        );
    }

    #[test]
    fn a_full_last_page_has_no_marker() {
        let entries = entries(&["a", "b"]);
        let query = ListQuery {
            max_results: Some(2),
            ..ListQuery::default()
        };
        assert_eq!(all(&entries, query), [["a", "b"]]);
    }

    #[test]
    fn a_delimiter_folds_names_and_counts_once() {
        let entries = entries(&["a", "b/1", "b/2", "c", "d/1/2", "d/3"]);
        let query = |size| ListQuery {
            delimiter: "/".to_owned(),
            max_results: Some(size),
            ..ListQuery::default()
        };
        assert_eq!(all(&entries, query(10)), [["a", "<b/>", "c", "<d/>"]]);
        assert_eq!(all(&entries, query(1)), [["a"], ["<b/>"], ["c"], ["<d/>"]]);
    }

    #[test]
    fn a_foreign_marker_is_refused() {
        let query = ListQuery {
            marker: "not ours".to_owned(),
            ..ListQuery::default()
        };
        assert!(page(&entries(&[]), &query).is_err());
    }
}
