//! What events count, and which of them are remembered.

use std::time::Duration;

use jiff::Timestamp;

use super::Metrics;
use super::recent::Build;
use super::tenant::Asked;
use crate::events::{BuildAction, BuildId, Event, Refused, Subscriber};
use crate::names::{RepoName, Tag, Tenant};

impl Subscriber for Metrics {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::Pushed { tenant, repo, tags, cache: true, build, .. } if !tags.is_empty() => {
                self.tenants.of(tenant).exports.inc_by(tags.len() as u64);
                let took = self.took(build, (tenant, repo), BuildAction::Export);
                tags.iter().for_each(|tag| self.remember((tenant, repo), Some(tag), BuildAction::Export, took));
            }
            Event::Pushed { .. } => {}
            Event::Served { tenant, .. } => self.tenants.of(tenant).asked(Asked::Tag, true),
            Event::Missed { tenant, .. } => self.tenants.of(tenant).asked(Asked::Tag, false),
            Event::Imported { tenant, repo, build } => {
                self.tenants.of(tenant).imports.inc();
                let took = self.took(build, (tenant, repo), BuildAction::Import);
                self.remember((tenant, repo), None, BuildAction::Import, took);
            }
            Event::Evicted { sums, which } => {
                sums.iter().for_each(|sum| self.tenants.of(&sum.tenant).evicted(sum.rule, sum.count, sum.bytes));
                which.iter().for_each(|eviction| self.recent.eviction(eviction.clone()));
            }
            Event::Refused(Refused::Upload { .. }) => self.uploads_refused.inc(),
            Event::Refused(Refused::Request(_)) | Event::Written(_) => {}
        }
    }
}

impl Metrics {
    /// How long an action took that has just ended, where its build says who it is.
    fn took(&self, build: Option<BuildId>, place: (&Tenant, &RepoName), action: BuildAction) -> Option<Duration> {
        let took = self.recent.end(build?, place, action)?;
        let histogram = match action {
            BuildAction::Import => &self.import_seconds,
            BuildAction::Export => &self.export_seconds,
        };
        histogram.observe(took.as_secs_f64());
        Some(took)
    }

    fn remember(
        &self,
        (tenant, repo): (&Tenant, &RepoName),
        tag: Option<&Tag>,
        action: BuildAction,
        took: Option<Duration>,
    ) {
        self.recent.build(Build {
            at: Timestamp::now(),
            tenant: tenant.clone(),
            repo: repo.clone(),
            tag: tag.cloned(),
            action,
            seconds: took.map(|took| took.as_secs_f64()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{EvictedSum, Eviction, Rule};

    #[test]
    fn each_event_counts_once() {
        let metrics = Metrics::default();
        let (tenant, repo) = (Tenant::default_tenant(), "a".parse().unwrap());
        let tags: Vec<Tag> = ["x", "y"].map(|tag| tag.parse().unwrap()).into();
        let build = Some(BuildId(7));
        let pushed = |cache| Event::Pushed { tenant: &tenant, repo: &repo, tags: &tags, cache, bytes: 1, build };
        metrics.recent.begin(BuildId(7), (&tenant, &repo), BuildAction::Export);
        let sum = EvictedSum { tenant: tenant.clone(), rule: Rule::Room, count: 3, bytes: 30 };
        let eviction = Eviction {
            at: Timestamp::UNIX_EPOCH,
            tenant: tenant.clone(),
            repo: "a".into(),
            tag: "x".into(),
            layer: None,
            bytes: 10,
            reason: "room".into(),
        };
        for event in [
            pushed(true),
            // An image is no cache.
            pushed(false),
            Event::Served { tenant: &tenant, repo: &repo, tag: &tags[0], bytes: 1 },
            Event::Missed { tenant: &tenant, repo: &repo, tag: &tags[0] },
            Event::Imported { tenant: &tenant, repo: &repo, build },
            Event::Evicted { sums: &[sum], which: &[eviction] },
            Event::Refused(Refused::Upload { tenant: &tenant }),
        ] {
            metrics.on(&event);
        }
        let reading = metrics.tenants.of(&tenant).reading();
        assert_eq!((reading.exports, reading.imports, reading.hits, reading.misses), (2, 1, 1, 1));
        assert_eq!((metrics.export_seconds.get_sample_count(), metrics.import_seconds.get_sample_count()), (1, 0));
        assert_eq!(metrics.uploads_refused.get(), 1);
        let shown = metrics.render();
        for line in [
            r#"larder_evictions_total{rule="room",tenant="default"} 3"#,
            r#"larder_evicted_bytes_total{rule="room",tenant="default"} 30"#,
        ] {
            assert!(shown.contains(line), "{line}");
        }
        let builds: Vec<_> = metrics.recent.builds().into_iter().map(|build| (build.action, build.tag)).collect();
        let [x, y] = tags.try_into().unwrap();
        let [import, export] = [BuildAction::Import, BuildAction::Export];
        assert_eq!(builds, [(import, None), (export, Some(y)), (export, Some(x))]);
        assert_eq!(metrics.recent.evictions().len(), 1);
    }
}
