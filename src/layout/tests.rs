//! Every key is the key of one thing.

use super::*;
use proptest::prelude::*;

fn any_digest() -> impl Strategy<Value = Digest> {
    (any::<bool>(), any::<[u8; 8]>())
        .prop_map(|(wide, seed)| Digest::of(if wide { Algorithm::Sha512 } else { Algorithm::Sha256 }, &seed))
}

fn id_of(manifest: Digest) -> PushId {
    PushId { identity: Digest::sha256(b"identity"), manifest }
}

prop_compose! {
    fn names()(
        tenant in "[a-z0-9]{1,8}",
        repo in "[a-z0-9]{1,3}((-|_|\\.|/)[a-z0-9]{1,3}){0,3}",
        tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,12}",
    ) -> (Tenant, RepoName, Tag) {
        (tenant.parse().unwrap(), repo.parse().unwrap(), tag.parse().unwrap())
    }
}

fn entry_names() -> impl Strategy<Value = EntryName> {
    ("[a-z]{1,16}", "[0-9a-f]{1,64}", ".{1,300}|[a/]{390,410}")
        .prop_map(|(space, version, key)| EntryName::new(&space, &version, &key).unwrap())
}

proptest! {
    #[test]
    fn parse_undoes_every_builder((t, r, g) in names(), a in any_digest(), b in any_digest(), offset: u64, nonce: u64, e in entry_names()) {
        let (id, batch, at) = (UploadId::random(), BatchId::new(offset, nonce), (offset % 10_000) as u32);
        let session = SessionId::new(offset, nonce);
        let condemned = |item| Place::Condemned { batch: batch.clone(), item };
        let repo = |item| Place::Repo { tenant: t.clone(), repo: r.clone(), item };
        let upload = |item| Place::Upload { tenant: t.clone(), id: id.clone(), item };
        for (key, place) in [
            (format(), Place::Format),
            (clock(), Place::Clock),
            (revoked(&session), Place::Revoked(session.clone())),
            (batch_list(&batch), condemned(BatchItem::List)),
            (batch_claim(&batch), condemned(BatchItem::Claim)),
            (batch_spared(&batch, at), condemned(BatchItem::Spared(at))),
            (blob(&t, &a), Place::Blob { tenant: t.clone(), digest: a }),
            (manifest(&t, &r, &a), repo(RepoItem::Manifest(a))),
            (tag(&t, &r, &g), repo(RepoItem::Tag(g.clone()))),
            (push(&t, &r, &g, &id_of(b)), repo(RepoItem::Push(g.clone(), id_of(b)))),
            (view(&t, &r, &g), repo(RepoItem::View(g.clone()))),
            (used(&t, &r, &g), repo(RepoItem::Used(g.clone()))),
            (referrer(&t, &r, &a, &b), repo(RepoItem::Referrer { subject: a, manifest: b })),
            (entry(&t, &r, &e, EntryItem::Record), repo(RepoItem::Entry(e.clone(), EntryItem::Record))),
            (entry(&t, &r, &e, EntryItem::Used), repo(RepoItem::Entry(e.clone(), EntryItem::Used))),
            (upload_state(&t, &id), upload(UploadItem::State)),
            (upload_part(&t, &id, offset, nonce), upload(UploadItem::Part { offset, nonce })),
            (quarantine(&blob(&t, &a)), Place::Quarantine(blob(&t, &a))),
        ] {
            prop_assert_eq!(parse(key.as_str()), Some(place));
        }
    }

    #[test]
    fn any_text_parses_or_not_without_a_panic(text in "(t/|meta/|blobs/|repos/|!/|tags/|[a-z0-9]{1,3}/?|é){0,9}") {
        let _ = parse(&text);
    }

    #[test]
    fn the_end_of_a_repository_lies_between_it_and_the_next((t, r, g) in names(), other in "[a-z0-9]{1,3}(/|-)[a-z0-9]{1,3}") {
        let end = repo_end(&t, &r);
        prop_assert!(tag(&t, &r, &g).as_str() < &*end);
        prop_assert_eq!(tag(&t, &r, &g).owner(), Some(t.clone()));
        let other: RepoName = other.parse().unwrap();
        let other = tag(&t, &other, &g);
        let inside = other.as_str().starts_with(&repo_prefix(&t, &r));
        prop_assert!(inside || (other.as_str() < &*repo_prefix(&t, &r)) != (other.as_str() > &*end));
    }
}

proptest! {
    #[test]
    fn keys_of_entries_begin_alike_when_the_entries_do(start in ".{1,300}", rest in ".{0,300}", other in ".{1,300}") {
        let (tenant, repo) = (Tenant::default_tenant(), "a".parse().unwrap());
        let key = |key: &str| entry(&tenant, &repo, &EntryName::new("gha", "v1", key).unwrap(), EntryItem::Record);
        let prefix = entries_prefix(&tenant, &repo, "gha", "v1", &start);
        let whole = format!("{start}{rest}");
        prop_assert!(key(&whole).as_str().starts_with(&prefix));
        prop_assert_eq!(key(&whole) == key(&other), whole == other);
        // If the path has all of the start, nothing else is found.
        if !other.starts_with(&start) && prefix.len() < entries_prefix(&tenant, &repo, "gha", "v1", "").len() + 400 {
            prop_assert!(!key(&other).as_str().starts_with(&prefix));
        }
        // No key is a folder of another one.
        let folder = format!("{}/", key(&start));
        prop_assert!(!key(&other).as_str().starts_with(&folder));
    }
}

#[test]
fn the_longest_key_of_an_entry_fits_a_bucket() {
    let scope: Tenant = format!("{}~{}", "t".repeat(64), "s".repeat(65)).parse().unwrap();
    let (repo, long) = ("r".repeat(255).parse().unwrap(), "/".repeat(512));
    let name = EntryName::new(&"s".repeat(16), &"v".repeat(64), &long).unwrap();
    let key = quarantine(&entry(&scope, &repo, &name, EntryItem::Record));
    assert!(key.as_str().len() <= 1024, "{}", key.as_str().len());
    assert!(key.as_str().split('/').all(|name| name.len() <= 255));
    assert!(EntryName::new("", "v", "k").is_none() && EntryName::new("s", "a/b", "k").is_none());
}
