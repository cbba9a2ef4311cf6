//! Keeps other threads and tasks from racing with the play.

use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};

use super::sim::Sim;

/// How often what one step has set off may set off more.
const ROUNDS: usize = 16;

/// The one thread that the runtime has for blocking work: held, but while what was handed to it is waited for.
pub struct Quiet {
    sim: Sim,
    held: RefCell<Sender<()>>,
}

/// Waits until the thread has done what it was handed, and holds it.
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

    /// Lets all that was handed to the thread and to other tasks come as far as it can without the bucket. Otherwise it
    /// would depend on more than the seed what comes first.
    pub async fn settle(&self) {
        let state = || (self.sim.asked(), tokio::runtime::Handle::current().metrics().num_alive_tasks());
        for _ in 0..ROUNDS {
            let before = state();
            // Drops the sender, and with it lets the thread go on.
            *self.held.borrow_mut() = channel().0;
            *self.held.borrow_mut() = hold();
            tokio::task::yield_now().await;
            if before == state() {
                break;
            }
        }
    }
}
