//! A store is a sorted map: whatever is done to both, in any order, they agree.

use std::collections::BTreeMap;

use bytes::Bytes;
use larder::digest::Digest;
use larder::objects::fs::FsObjects;
use larder::objects::{Error, Key, Objects, When};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put(String, Vec<u8>, bool),
    Draft(String, Vec<u8>, bool),
    Concat(Vec<String>, String),
    Delete(Vec<String>),
    List(String, Option<String>),
    Restart,
}

/// Few keys, many collisions; no key is the folder of another, as none is in the layout.
fn key() -> impl Strategy<Value = String> {
    "(a|a-b|a\\.b|b)/(x|y|x-)/(1|2|1\\.)"
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        4 => (key(), bytes(), any::<bool>()).prop_map(|(key, bytes, absent)| Step::Put(key, bytes, absent)),
        2 => (key(), bytes(), any::<bool>()).prop_map(|(key, bytes, commit)| Step::Draft(key, bytes, commit)),
        1 => (prop::collection::vec(key(), 1..4), key()).prop_map(|(from, to)| Step::Concat(from, to)),
        3 => prop::collection::vec(key(), 1..4).prop_map(Step::Delete),
        3 => ("[ab./x-]{0,4}", prop::option::of("[ab./xy12~-]{0,6}")).prop_map(|(prefix, after)| Step::List(prefix, after)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_store_is_a_sorted_map(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(agree(steps));
    }
}

async fn agree(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = Some(FsObjects::open(folder.path()).unwrap());
    let mut model = BTreeMap::<String, Vec<u8>>::new();
    for step in steps {
        if let Step::Restart = step {
            objects = None;
        }
        let objects = objects.get_or_insert_with(|| FsObjects::open(folder.path()).unwrap());
        apply(objects, &mut model, step).await;
        for (key, bytes) in &model {
            assert_eq!(&super::whole(objects, key).await, bytes, "{key}");
        }
        assert!(super::list(objects, "", None).await.iter().eq(model.keys()));
    }
}

async fn apply(objects: &FsObjects, model: &mut BTreeMap<String, Vec<u8>>, step: Step) {
    match step {
        Step::Put(key, bytes, absent) => {
            let when = if absent { When::Absent } else { When::Always };
            let done = objects.put(&Key::new(key.as_str()), Bytes::from(bytes.clone()), when).await;
            if absent && model.contains_key(&key) {
                assert!(matches!(done, Err(Error::Exists)), "{done:?}");
            } else {
                assert_eq!(done.unwrap().size, bytes.len() as u64);
                model.insert(key, bytes);
            }
        }
        Step::Draft(key, bytes, commit) => {
            let mut draft = objects.begin(&Key::new(key.as_str()), None).await.unwrap();
            for piece in bytes.chunks(7) {
                draft.write(vec![Bytes::copy_from_slice(piece)]).await.unwrap();
            }
            if commit {
                draft.commit().await.unwrap();
                model.insert(key, bytes);
            }
        }
        Step::Concat(from, to) => {
            let keys: Vec<Key> = from.iter().map(|key| Key::new(key.as_str())).collect();
            let parts = from.iter().map(|key| model.get(key).cloned()).collect::<Option<Vec<_>>>();
            let digest = Digest::sha256(&parts.clone().unwrap_or_default().concat());
            let done = objects.concat(&keys, &Key::new(to.as_str()), &digest).await;
            match parts {
                Some(parts) => {
                    done.unwrap();
                    model.insert(to, parts.concat());
                }
                None => assert!(matches!(done, Err(Error::NotFound)), "{done:?}"),
            }
        }
        Step::Delete(keys) => {
            let named: Vec<Key> = keys.iter().map(|key| Key::new(key.as_str())).collect();
            objects.delete(&named).await.unwrap();
            keys.iter().for_each(|key| drop(model.remove(key)));
        }
        Step::List(prefix, after) => {
            let listed = super::list(objects, &prefix, after.as_deref()).await;
            let wanted = |key: &&String| {
                key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key.as_str() > after.as_str())
            };
            assert!(listed.iter().eq(model.keys().filter(wanted)), "{prefix:?} after {after:?}: {listed:?}");
        }
        Step::Restart => {}
    }
}
