//! Unfinished uploads of scopes are dropped first when free space is low: nothing references them, and no answer has
//! said that their content exists.
//!
//! A client whose upload was ended gets an error; one whose chunks were dropped begins that upload anew.

use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::lifetime::collect::{Collector, passed};

/// Idle time after which an upload of a scope is dropped as soon as free space is low. Others are dropped only while it
/// stays low, the longest idle first.
const IDLE: Duration = Duration::from_secs(5 * 60);

impl Collector {
    /// Ends and drops uploads of scopes, until the disk has space for the uploads of tenants. Returns their number.
    pub(super) async fn drop_uploads_of_scopes(&self, now: SystemTime) -> Result<usize> {
        let (room, mut dropped) = (self.refs.room(), 0);
        while room.end_idle_of_scopes(IDLE).await {
            dropped += 1;
        }
        let mut staged = Vec::new();
        for tenant in self.refs.tenants().await?.into_iter().filter(|tenant| tenant.is_scope()) {
            let added = self.refs.content().staging(&tenant).last_added().await?;
            staged.extend(added.into_iter().map(|(id, at)| (at, tenant.clone(), id)));
        }
        staged.sort_by_key(|(at, ..)| *at);
        for (at, tenant, id) in staged {
            if !passed(at, now, IDLE) && !room.is_low_for_scopes() {
                break;
            }
            self.refs.content().staging(&tenant).give_up(&id).await?;
            dropped += 1;
        }
        while room.is_low_for_scopes() && room.end_idle_of_scopes(Duration::ZERO).await {
            dropped += 1;
        }
        if dropped > 0 {
            tracing::info!(uploads = dropped, "dropped uploads of scopes to free disk space");
        }
        Ok(dropped)
    }
}
