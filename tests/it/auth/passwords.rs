//! Passwords: how many an address may try, and which requests wait for which.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{basic, configure};
use crate::world::World;

/// The bcrypt cost: a check takes some milliseconds, so that it does not end before a test has begun.
const COST: u32 = 7;

/// A server with the user alice, whose password is "right".
async fn world(more: &str) -> (World, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("alice:{}\n", bcrypt::hash("right", COST).unwrap())).unwrap();
    let rules = "[[rules]]\nidentity = \"user:alice\"\nmay = [\"pull\"]\n";
    let text = format!("[auth]\nhtpasswd = \"{}\"\n{more}{rules}", file.path().display());
    (World::with(|config| configure(config, &text)).await, file)
}

async fn log_in(world: &World, password: &str, from: &str) -> u16 {
    let call = world.get("/v2/").header("host", "h").from(from).header("authorization", &basic("alice", password));
    let answer = call.await;
    if answer.status == 429 {
        assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
        assert_eq!(answer.code(), "TOOMANYREQUESTS");
    }
    answer.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_password_of_another_address_is_not_behind_many_wrong_ones() {
    let (world, _file) = world("").await;
    let checked = AtomicUsize::new(0);
    let mut wrong: FuturesUnordered<_> = (0..600)
        .map(|number| {
            let (world, checked) = (&world, &checked);
            async move {
                let status = log_in(world, &format!("wrong {number}"), "10.0.0.1").await;
                checked.fetch_add(usize::from(status == 401), Ordering::SeqCst);
                status
            }
        })
        .collect();
    // All requests have arrived, and the first passwords are being checked.
    let mut statuses = vec![wrong.next().await.unwrap()];
    let right = log_in(&world, "right", "10.0.0.2");
    let all = async { statuses.extend(wrong.by_ref().collect::<Vec<_>>().await) };
    let ((right, before), ()) = tokio::join!(async { (right.await, checked.load(Ordering::SeqCst)) }, all);
    assert_eq!(right, 200);
    assert!(before <= 5, "{before} wrong passwords were checked first");
    let of = |status: u16| statuses.iter().filter(|had| **had == status).count();
    assert_eq!(of(401) + of(429), 600, "{statuses:?}");
    assert!(of(401) <= 5, "of one address, {} were let into the queue", of(401));
}

#[tokio::test]
async fn no_more_wrong_passwords_are_checked_than_allowed_however_they_come() {
    let (world, _file) = world("failed_logins = 6\n").await;
    let mut wrong = 0;
    for round in 0..10 {
        // Four at once: as many as an address may have pending.
        let tried = (0..4).map(|number| {
            let world = &world;
            async move { log_in(world, &format!("wrong {round} {number}"), "10.0.0.1").await }
        });
        wrong += futures::future::join_all(tried).await.iter().filter(|status| **status == 401).count();
    }
    assert_eq!(wrong, 6);
    assert_eq!(log_in(&world, "right", "10.0.0.1").await, 429);
    assert_eq!(log_in(&world, "right", "10.0.0.2").await, 200);
}

#[tokio::test]
async fn a_builder_that_sends_its_password_many_times_at_once_is_let_in_every_time() {
    let (world, _file) = world("failed_logins = 1\n").await;
    let sent = (0..50).map(|_| log_in(&world, "right", "10.0.0.1"));
    assert_eq!(futures::future::join_all(sent).await, [200; 50]);
}

#[tokio::test]
async fn clients_of_a_proxy_that_writes_ports_are_told_apart() {
    let (world, _file) = world("failed_logins = 2\n").await;
    let mut world = world;
    world
        .reconfigure(|config| config.server.trusted_proxies = vec!["10.0.0.0/8".to_string().try_into().unwrap()])
        .await;
    let log_in = async |password: &str, forwarded: &str| {
        let call = world.get("/v2/").header("host", "h").from("10.0.0.1").header("x-forwarded-for", forwarded);
        call.header("authorization", &basic("alice", password)).await.status.as_u16()
    };
    for (bad, good) in [
        ("3.3.3.3:1234", "4.4.4.4:1234"),
        ("[2001:db8:1::1]:99", "[2001:db8:2::1]:99"),
        ("1.1.1.1, 5.5.5.5:1", "1.1.1.1:7"),
    ] {
        for number in 0..2 {
            assert_eq!(log_in(&format!("wrong {bad} {number}"), bad).await, 401, "{bad}");
        }
        assert_eq!(log_in("another", bad).await, 429, "{bad}");
        assert_eq!(log_in("right", good).await, 200, "{good}");
    }
}
