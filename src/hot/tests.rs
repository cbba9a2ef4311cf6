use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed(&'static str);

impl From<JoinError> for Failed {
    fn from(_: JoinError) -> Failed {
        Failed("task")
    }
}

const CHUNK: u64 = 4096;

fn hot(bytes: u64) -> Arc<Hot<Failed>> {
    Arc::new(Hot::new(bytes, CHUNK, Arc::new(Metrics::default())))
}

fn whole(name: &str) -> Slot {
    Slot::Whole(Key::new(name))
}

fn version(name: &str) -> Version {
    Version(name.into())
}

fn bytes(hot: &Hot<Failed>, slot: &Slot) -> Option<Bytes> {
    hot.peek(slot).map(|piece| piece.bytes)
}

#[tokio::test]
async fn many_readers_cost_one_fetch_and_a_reader_that_is_not_polled_holds_nobody_up() {
    let (hot, slot) = (hot(1 << 20), whole("k"));
    let fetches = Arc::new(AtomicUsize::new(0));
    let (send, receive) = oneshot::channel::<Bytes>();
    let mut leader = Box::pin(hot.get(&slot, 0, || {
        fetches.fetch_add(1, Ordering::SeqCst);
        async { receive.await.map_err(|_| Failed("gone")) }
    }));
    // The first reader starts the fetch and is never polled again.
    assert!(futures::poll!(&mut leader).is_pending());
    let readers = futures::future::join_all((0..64).map(|_| hot.get(&slot, 0, || async { panic!("fetched twice") })));
    let readers = readers.map(|all| all.into_iter().filter(Result::is_ok).count());
    let mut readers = Box::pin(readers);
    assert!(futures::poll!(&mut readers).is_pending());
    send.send("bytes".into()).unwrap();
    assert_eq!(readers.await, 64);
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    assert_eq!(bytes(&hot, &slot), Some("bytes".into()));
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_ends() {
    let (hot, slot) = (hot(1 << 20), whole("k"));
    let (mut send, receive) = oneshot::channel::<Bytes>();
    let mut reader = Box::pin(hot.get(&slot, 0, || async { receive.await.map_err(|_| Failed("gone")) }));
    assert!(futures::poll!(&mut reader).is_pending());
    drop(reader);
    send.closed().await;
    assert_eq!(hot.get(&slot, 0, || async { Ok("again".into()) }).await, Ok("again".into()));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_whose_reader_is_told_to_come_again_keeps_its_place_for_a_while() {
    // Memory for one fetch.
    let (hot, before, slot) = (hot(4 * CHUNK), whole("before"), whole("k"));
    let (send, receive) = oneshot::channel::<Bytes>();
    let mut first = Box::pin(hot.get(&before, CHUNK, || async { receive.await.map_err(|_| Failed("gone")) }));
    let mut reader = Box::pin(hot.get(&slot, CHUNK, || async { Ok("bytes".into()) }));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut reader).is_pending());
    hot.keep_place(&slot);
    hot.keep_place(&before);
    drop((first, reader));
    send.send("first".into()).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(hot.has(&before) && hot.has(&slot));

    // No client has retried.
    let (mut send, receive) = oneshot::channel::<Bytes>();
    let late = whole("late");
    let mut reader = Box::pin(hot.get(&late, CHUNK, || async { receive.await.map_err(|_| Failed("gone")) }));
    assert!(futures::poll!(&mut reader).is_pending());
    hot.keep_place(&late);
    drop(reader);
    send.closed().await;
    assert!(!hot.is_coming(&late));
}

#[tokio::test]
async fn a_failed_fetch_is_not_remembered() {
    let (hot, slot) = (hot(1 << 20), whole("k"));
    assert_eq!(hot.get(&slot, 0, || async { Err(Failed("no")) }).await, Err(Failed("no")));
    assert_eq!(hot.get(&slot, 0, || async { Ok("yes".into()) }).await, Ok("yes".into()));
}

#[tokio::test]
async fn what_is_forgotten_while_it_is_fetched_is_not_kept() {
    let (hot, slot) = (hot(1 << 20), whole("k"));
    let (send, receive) = oneshot::channel::<Bytes>();
    let mut reader = Box::pin(hot.get(&slot, 0, || async { receive.await.map_err(|_| Failed("gone")) }));
    assert!(futures::poll!(&mut reader).is_pending());
    hot.forget(&slot);
    send.send("old".into()).unwrap();
    assert_eq!(reader.await, Ok("old".into()));
    assert_eq!(bytes(&hot, &slot), None);
}

#[tokio::test]
async fn memory_stays_within_its_bound_and_a_push_does_not_flush_what_is_read() {
    let hot = hot(1 << 20);
    for i in 0..100 {
        let slot = whole(&format!("read{i}"));
        hot.get(&slot, 0, || async { Ok(vec![0; 4096].into()) }).await.unwrap();
    }
    for i in 0..2_000 {
        hot.keep_pushed(whole(&format!("pushed{i}")), &[0; 4096]);
        assert!(hot.read.weighted_size() + hot.pushed.weighted_size() <= 1 << 20);
    }
    assert!((0..100).all(|i| hot.has(&whole(&format!("read{i}")))));
    // The newest are what a sibling reads next, and reading keeps them.
    assert!(hot.peek(&whole("pushed1999")).is_some());
    for i in 0..2_000 {
        hot.keep_pushed(whole(&format!("more{i}")), &[0; 4096]);
    }
    assert!(hot.has(&whole("pushed1999")) && !hot.has(&whole("pushed1998")));
}

#[tokio::test]
async fn chunks_come_in_order_each_once_for_all_readers_and_some_ahead() {
    let hot = hot(8 << 20);
    let fetched = Arc::new(AtomicUsize::new(0));
    let read = |version: &str| {
        let fetched = fetched.clone();
        let chunks = hot.chunks(Key::new("k"), super::Version(version.into()), 0..40, move |index| {
            fetched.fetch_add(1, Ordering::SeqCst);
            async move { Ok(HotPiece::of(index.to_string().into())) }
        });
        chunks.map_ok(|(piece, _)| piece.bytes).try_collect::<Vec<Bytes>>()
    };
    let expected: Vec<Bytes> = (0..40).map(|index| Bytes::from(index.to_string())).collect();
    for got in futures::future::join_all((0..64).map(|_| read("1"))).await {
        assert_eq!(got.unwrap(), expected);
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 40);
    // Another version shares nothing with it.
    read("2").await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 80);
}

#[tokio::test]
async fn a_reader_looks_ahead_as_far_as_its_window_and_the_budget_allow() {
    // A budget for two chunks ahead, of all readers together.
    let hot = hot(8 * CHUNK);
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let read = |key: &str| {
        let asked = asked.clone();
        hot.chunks(Key::new(key), version("1"), 0..40, move |index| {
            asked.lock().unwrap().push(index);
            std::future::pending()
        })
    };
    let (mut one, mut two) = (read("a"), read("b"));
    assert!(futures::poll!(one.next()).is_pending());
    assert!(futures::poll!(two.next()).is_pending());
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let mut seen = asked.lock().unwrap().clone();
    seen.sort_unstable();
    // Each reader has its current chunk, and the first took the rest of the budget.
    assert_eq!(seen, [0, 0, 1, 2]);
}

#[tokio::test]
async fn what_is_pushed_can_be_read_once_it_has_a_version() {
    let hot = hot(8 << 20);
    let (key, body) = (Key::new("k"), vec![7; 10_000]);
    let push = |commit: bool| {
        let mut pushing = hot.pushing(&key, body.len() as u64, KeptForm::Chunks).unwrap();
        body.chunks(3_000).for_each(|piece| pushing.add(piece));
        assert!(!hot.has(&Slot::Chunk(key.clone(), version("1"), 0)));
        if commit { pushing.commit(&version("1")) } else { drop(pushing) }
    };
    push(false);
    hot.pushed.run_pending_tasks();
    assert_eq!(hot.pushed.entry_count(), 0);
    push(true);
    let none = |_| async { panic!("fetched") };
    let chunks = hot.chunks(key.clone(), version("1"), 0..3, none).map_ok(|(piece, _)| piece.bytes);
    let read: Vec<Bytes> = chunks.try_collect().await.unwrap();
    assert_eq!(read.concat(), body);
    assert!(hot.pushing(&key, hot.pushed_bytes_max() + 1, KeptForm::Chunks).is_none());
}

#[test]
fn a_flipped_bit_changes_the_sum() {
    let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * 7) as u8).collect();
    for length in [0, 1, 7, 8, 31, 32, 33, 1000] {
        let before = sum(&bytes[..length]);
        for bit in 0..length * 8 {
            let mut changed = bytes[..length].to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum(&changed), before);
        }
        assert_ne!(sum(&[&bytes[..length], &[0]].concat()), before);
    }
}
