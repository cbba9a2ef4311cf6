//! Keeps other threads and tasks from racing with the play.

use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};

use super::sim::Sim;

/// How many times in a row the work of one step may cause more work.
const ROUNDS: usize = 16;

/// The only thread of the runtime for blocking work. It is held, except while its work is waited for.
pub struct Quiet {
    sim: Sim,
    held: RefCell<Sender<()>>,
}

/// Waits until the thread has done its work, and holds it.
fn hold() -> Sender<()> {
    let ((here, arrived), (release, released)) = (channel(), channel::<()>());
    tokio::task::spawn_blocking(move || {
        let _ = here.send(());
        let _ = released.recv();
    });
    arrived.recv().unwrap();
    release
}

impl Quiet {
    pub fn new(sim: &Sim) -> Quiet {
        Quiet { sim: sim.clone(), held: RefCell::new(hold()) }
    }

    /// Lets the work of the thread and of other tasks proceed as far as it can without the bucket. Otherwise its order
    /// would depend on more than the seed.
    pub async fn settle(&self) {
        let state = || (self.sim.asked(), tokio::runtime::Handle::current().metrics().num_alive_tasks());
        for _ in 0..ROUNDS {
            let before = state();
            // Drops the sender, and so releases the thread.
            *self.held.borrow_mut() = channel().0;
            *self.held.borrow_mut() = hold();
            tokio::task::yield_now().await;
            if before == state() {
                break;
            }
        }
    }
}
