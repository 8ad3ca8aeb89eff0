//! What holds for the store after any sequence of operations.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, Method, Uri};
use proptest::{collection::vec, prelude::*};

use super::{super::request::Target, *};

const CONTAINER: &str = "checkpoints";

#[derive(Clone, Debug)]
enum Step {
    Put {
        name: u8,
        size: u16,
        create: bool,
    },
    Set {
        name: u8,
        value: u16,
        tag: Option<u8>,
    },
    Delete {
        name: u8,
    },
    Recreate,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..4_u8;
    prop_oneof![
        4 => (name.clone(), 0..600_u16, any::<bool>())
            .prop_map(|(name, size, create)| Step::Put { name, size, create }),
        4 => (name.clone(), 0..600_u16, proptest::option::of(0..8_u8))
            .prop_map(|(name, value, tag)| Step::Set { name, value, tag }),
        1 => name.prop_map(|name| Step::Delete { name }),
        1 => Just(Step::Recreate),
    ]
}

fn conditions(name: &'static str, value: &str) -> Conditions {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(name), value.parse().unwrap());
    Conditions::from_headers(&headers).unwrap()
}

proptest! {
    #[test]
    fn the_books_balance_and_no_tag_comes_twice(
        steps in vec((step(), -3_i64..3), 1..60),
    ) {
        let limits = Limits { total_bytes: 3_000, containers: 1, blobs: 3 };
        let mut store = Store::new(limits, Deviations::default());
        let mut now = UNIX_EPOCH + Duration::from_secs(1_000);
        store.create_container(CONTAINER, Metadata::default(), now).unwrap();
        let mut tags: Vec<ETag> = Vec::new();
        for (step, shift) in steps {
            // The clock may also go back.
            now = if shift < 0 {
                now - Duration::from_secs(shift.unsigned_abs())
            } else {
                now + Duration::from_secs(shift.unsigned_abs())
            };
            let before = store.clone();
            let outcome = match step {
                Step::Put { name, size, create } => {
                    let parts = (vec![0; size.into()].into(), ContentHeaders::default(), Metadata::default());
                    let only = if create { conditions("if-none-match", "*") } else { Conditions::default() };
                    let there = before.containers[CONTAINER].blobs.contains_key(&name.to_string());
                    let put = store.put_blob(CONTAINER, &name.to_string(), parts, &only, now);
                    if create && there {
                        prop_assert_eq!(put.as_ref().unwrap_err().code, ErrorCode::BlobAlreadyExists);
                    }
                    put.map(Some)
                }
                Step::Set { name, value, tag } => {
                    let mut metadata = Metadata::default();
                    metadata.insert("ownerid", &"x".repeat(value.into())).unwrap();
                    let tag = tag.and_then(|back| tags.iter().rev().nth(back.into()).copied());
                    let only = tag.map_or_else(Conditions::default, |tag| conditions("if-match", &tag.to_string()));
                    let stored = before.containers[CONTAINER].blobs.get(&name.to_string()).map(|blob| blob.etag);
                    let set = store.set_metadata(CONTAINER, &name.to_string(), metadata, &only, now);
                    if set.is_ok() {
                        prop_assert!(tag.is_none_or(|tag| Some(tag) == stored), "a stale tag won");
                    }
                    set.map(Some)
                }
                Step::Delete { name } => store
                    .delete_blob(CONTAINER, &name.to_string(), &Conditions::default())
                    .map(|()| None),
                Step::Recreate => {
                    store.delete_container(CONTAINER).unwrap();
                    store.create_container(CONTAINER, Metadata::default(), now).map(Some)
                }
            };
            match outcome {
                Ok(Some(version)) => {
                    prop_assert!(tags.last().is_none_or(|last| version.etag > *last));
                    tags.push(version.etag);
                }
                Ok(None) => {}
                // A refusal changes nothing that can be seen.
                Err(_) => prop_assert_eq!(
                    format!("{:?}", before.containers),
                    format!("{:?}", store.containers)
                ),
            }
            let blobs = &store.containers[CONTAINER].blobs;
            let bytes: u64 = blobs.iter().map(|(name, blob)| blob.cost(name)).sum();
            prop_assert_eq!((store.bytes, store.blobs), (bytes, blobs.len()));
            prop_assert!(bytes <= limits.total_bytes && blobs.len() <= limits.blobs);
        }
    }

    #[test]
    fn no_request_line_makes_the_parser_panic(
        method in "GET|PUT|HEAD|DELETE|POST",
        path in "/(acc)?[/a%20-9$.~?&=+!,]{0,40}",
    ) {
        if let Ok(uri) = path.parse::<Uri>() {
            let method: Method = method.parse().unwrap();
            if let Ok(target) = Target::parse(&method, &uri, "acc") {
                prop_assert!(!target.operation.is_on_blob() || !target.blob().is_empty());
            }
        }
    }
}
