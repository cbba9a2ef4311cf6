//! One caller cannot stop the others: places for uploads, and memory for bodies that are read whole.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::future::{BoxFuture, Either};
use http::Method;
use tokio::time::Instant;

use crate::auth::{basic, configure, static_token, token_entry};
use crate::call::Answer;
use crate::world::World;

/// `main` writes to the tenant; the others are pull requests, each in a scope of its own.
const RULES: &str = r#"
    [[rules]]
    identity = "token:main"
    may = ["pull", "push", "delete", "admin"]
    [[rules]]
    identity = "token:one"
    may = ["pull", "push"]
    scope = "pr:1"
    [[rules]]
    identity = "token:two"
    may = ["pull", "push"]
    scope = "pr:2"
"#;

/// Longest wait of a request, whether or not there are others.
const SOON: Duration = Duration::from_secs(2);

async fn world(uploads: usize) -> World {
    let tokens: String = ["main", "one", "two"].map(token_entry).concat();
    World::with(|config| {
        config.limits.uploads = uploads;
        configure(config, &format!("{tokens}{RULES}"));
    })
    .await
}

fn of<'w>(world: &'w World, who: &str) -> &'w World {
    world.show(basic("any", &static_token(who)))
}

/// A request whose body the test sends piece by piece.
struct Slow<'w> {
    body: Option<UnboundedSender<io::Result<Bytes>>>,
    answer: BoxFuture<'w, Answer>,
}

impl<'w> Slow<'w> {
    /// Sends the head, with this `Content-Length` if given, and the first byte.
    fn begin(world: &'w World, who: &str, method: Method, uri: &str, length: Option<usize>) -> Slow<'w> {
        let (body, bytes) = unbounded();
        let mut request = http::Request::builder().method(method).uri(uri);
        request = request.header("authorization", basic("any", &static_token(who)));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let request = request.body(Body::from_stream(bytes)).unwrap();
        let slow = Slow { body: Some(body), answer: world.send(request).boxed() };
        slow.send("{");
        slow
    }

    fn send(&self, bytes: impl Into<Bytes>) {
        self.body.as_ref().unwrap().unbounded_send(Ok(bytes.into())).unwrap();
    }

    /// Ends the body, and waits for the answer.
    async fn end(mut self) -> Answer {
        drop(self.body.take());
        self.answer.await
    }

    /// Whether it has been answered by now.
    fn is_answered(&mut self) -> bool {
        Pin::new(&mut self.answer).now_or_never().is_some()
    }
}

/// Begins `count` chunked uploads, each with one byte.
async fn uploads<'w>(world: &'w World, who: &str, count: usize) -> Vec<Slow<'w>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let location = of(world, who).begin("app").await;
        let mut upload = Slow::begin(world, who, Method::PATCH, &location, None);
        assert!(!upload.is_answered());
        all.push(upload);
    }
    all
}

/// Polls the waiting requests until `done`, and returns how long that took.
async fn beside<T>(waiting: &mut [Slow<'_>], done: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let waiting = futures::future::join_all(waiting.iter_mut().map(|slow| slow.answer.as_mut()));
    let (done, waiting) = (std::pin::pin!(done), std::pin::pin!(waiting));
    match futures::future::select(done, waiting).await {
        Either::Left((found, _)) => (began.elapsed(), found),
        Either::Right(_) => panic!("all were answered"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_request_that_holds_uploads_open_keeps_nobody_from_pushing() {
    let world = world(4).await;
    let mut held = uploads(&world, "one", 8).await;
    for who in ["main", "two"] {
        let pushing = of(&world, who).put_blob("app", "hello");
        let (took, _) = beside(&mut held, pushing).await;
        assert!(took <= SOON, "{who}: {took:?}");
    }
    // The waiting uploads continue where they stopped.
    for upload in held {
        upload.send("}");
        upload.end().await.expect(202);
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_that_pause_leave_their_places_to_others_of_the_same_tenant() {
    let world = world(4).await;
    let mut held = uploads(&world, "main", 8).await;
    let (took, _) = beside(&mut held, of(&world, "main").put_blob("app", "hello")).await;
    assert!(took <= SOON, "{took:?}");
    for upload in held {
        upload.send("}");
        upload.end().await.expect(202);
    }
}

#[tokio::test(start_paused = true)]
async fn manifests_that_are_sent_by_halves_keep_nobody_from_pushing() {
    let world = world(4).await;
    let mut held: Vec<Slow> = (0..40)
        .map(|at| Slow::begin(&world, "one", Method::PUT, &format!("/v2/app/manifests/{at}"), Some(4 << 20)))
        .collect();
    held.iter_mut().for_each(|slow| assert!(!slow.is_answered()));
    let (took, _) = beside(&mut held, of(&world, "main").put_image("app", "latest", "main")).await;
    assert!(took <= SOON, "{took:?}");
    // Among pull requests, one that pauses ends when another has to wait.
    let (took, _) = beside(&mut held, of(&world, "two").put_image("app", "latest", "two")).await;
    assert!(took <= Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_comes_byte_by_byte_ends() {
    let world = world(4).await;
    let slow = Slow::begin(&world, "main", Method::PUT, "/v2/app/manifests/slow", None);
    let (body, mut answer) = (slow.body.unwrap(), slow.answer);
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_secs(4)).await;
            if body.unbounded_send(Ok(" ".into())).is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let began = Instant::now();
    tokio::select! {
        answer = &mut answer => answer.expect(408),
        () = dripping => unreachable!(),
    };
    assert!(began.elapsed() <= Duration::from_secs(130), "{:?}", began.elapsed());
}
