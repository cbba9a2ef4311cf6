//! A store in use is as sound as one at rest.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_and_deleted_meanwhile_is_no_damage() {
    let s = stocked().await;
    let done = AtomicBool::new(false);
    let traffic = async {
        for round in 0.. {
            if done.load(Ordering::Relaxed) && round >= 20 {
                break;
            }
            let image = s.world.put_image("busy", &format!("v{}", round % 3), &format!("seed {round}")).await;
            push(&s.world, &format!("step {round}")).await;
            s.world.get("/v2/c/manifests/main").await.expect(200);
            let session = s.world.begin("busy").await;
            let session = s.world.patch(session).body("chunk").await.expect(202);
            s.world.delete(session.header("location")).await.expect(204);
            if round % 2 == 0 {
                s.world.delete(format!("/v2/busy/manifests/{}", image.digest)).await.expect(202);
                s.world.delete(format!("/v2/busy/blobs/{}", image.layer)).await.expect(202);
            }
        }
    };
    let checks = async {
        for _ in 0..30 {
            assert_eq!(s.world.check().await, []);
        }
        done.store(true, Ordering::Relaxed);
    };
    join(traffic, checks).await;
}
