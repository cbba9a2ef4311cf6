//! Counting of events, memory of recent ones, and the log line of each import and export.

use std::time::Duration;

use jiff::Timestamp;

use super::Metrics;
use super::recent::{Build, BuildLayers};
use super::tenant::Asked;
use crate::events::{BuildAction, BuildCaller, BuildId, Event, LayerSum, Refused, Subscriber};
use crate::names::{RepoName, Tenant};

impl Subscriber for Metrics {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::Pushed { tenant, repo, tags, cache: true, layers, by, .. } if !tags.is_empty() => {
                self.tenants.of(tenant).builds.exports.inc_by(tags.len() as u64);
                let layers = self.recent.exported(tenant, layers);
                let ended = self.ended(by, (tenant, repo), BuildAction::Export, layers);
                tags.iter().for_each(|tag| self.remember(Build { tag: Some(tag.clone()), ..ended.clone() }, by));
            }
            Event::Pushed { .. } => {}
            Event::Served { tenant, .. } => self.tenants.of(tenant).asked(Asked::Tag, true),
            Event::Missed { tenant, .. } => self.tenants.of(tenant).asked(Asked::Tag, false),
            Event::ImportMissed { tenant, repo, tag, by } => {
                self.tenants.of(tenant).builds.import_misses.inc();
                // The build may import from another tag yet: its time goes on.
                let unseen = BuildCaller { build: None, ..by.clone() };
                let ended = self.ended(&unseen, (tenant, repo), BuildAction::Import, BuildLayers::default());
                self.remember(Build { tag: Some(tag.clone()), found: Some(false), ..ended }, by);
            }
            Event::Imported { tenant, repo, tag, layers, by } => {
                self.tenants.of(tenant).builds.imports.inc();
                let layers = BuildLayers { all: layers, new: None };
                let ended = self.ended(by, (tenant, repo), BuildAction::Import, layers);
                self.remember(Build { tag: tag.cloned(), found: Some(true), ..ended }, by);
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
    /// Duration of an action that has just ended, if its build identifies itself.
    fn took(&self, build: Option<BuildId>, place: (&Tenant, &RepoName), action: BuildAction) -> Option<Duration> {
        let took = self.recent.end(build?, place, action)?;
        let histogram = match action {
            BuildAction::Import => &self.import_seconds,
            BuildAction::Export => &self.export_seconds,
        };
        histogram.observe(took.as_secs_f64());
        Some(took)
    }

    /// An import or an export that has just ended. Its tag is still to be said.
    fn ended(
        &self,
        by: &BuildCaller,
        (tenant, repo): (&Tenant, &RepoName),
        action: BuildAction,
        layers: BuildLayers,
    ) -> Build {
        Build {
            at: Timestamp::now(),
            tenant: tenant.clone(),
            repo: repo.clone(),
            tag: None,
            action,
            found: None,
            who: by.who.clone(),
            layers,
            seconds: self.took(by.build, (tenant, repo), action).map(|took| took.as_secs_f64()),
        }
    }

    /// Writes the line of an import or an export, and remembers it.
    fn remember(&self, ended: Build, by: &BuildCaller) {
        let BuildLayers { all, new } = ended.layers;
        let known = all
            .zip(new)
            .map(|(all, new)| LayerSum { layers: all.layers - new.layers, bytes: all.bytes.saturating_sub(new.bytes) });
        // An import takes of what it is offered what it needs, later; an export has sent what is new.
        let offered = all.filter(|_| new.is_none());
        tracing::info!(
            target: "larder::build",
            who = ended.who.as_deref(),
            tenant = %ended.tenant,
            repo = %ended.repo,
            tag = ended.tag.as_ref().map(tracing::field::display),
            layers = offered.map(|sum| sum.layers),
            bytes = offered.map(|sum| sum.bytes),
            layers_new = new.map(|sum| sum.layers),
            bytes_new = new.map(|sum| sum.bytes),
            layers_known = known.map(|sum| sum.layers),
            bytes_known = known.map(|sum| sum.bytes),
            seconds = ended.seconds,
            trace = by.build.map(tracing::field::display),
            "{}",
            match (ended.action, ended.found) {
                (BuildAction::Import, Some(false)) => "no cache to import: the tag does not exist",
                (BuildAction::Import, _) => "cache imported",
                (BuildAction::Export, _) => "cache exported",
            }
        );
        self.recent.build(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::events::{EvictedSum, Eviction, Rule};
    use crate::names::Tag;

    #[test]
    fn each_event_counts_once() {
        let metrics = Metrics::default();
        let (tenant, repo) = (Tenant::default_tenant(), "a".parse().unwrap());
        let tags: Vec<Tag> = ["x", "y"].map(|tag| tag.parse().unwrap()).into();
        let build = Some(BuildId(7));
        let by = BuildCaller { who: Some("token:ci".into()), build };
        let layers = [(Digest::sha256(b"new"), 5), (Digest::sha256(b"known"), 7)];
        metrics.recent.received(&tenant, &layers[0].0);
        let pushed = |cache| Event::Pushed {
            tenant: &tenant,
            repo: &repo,
            tags: &tags,
            cache,
            bytes: 1,
            layers: &layers,
            by: &by,
        };
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
            Event::ImportMissed { tenant: &tenant, repo: &repo, tag: &tags[0], by: &by },
            Event::Imported { tenant: &tenant, repo: &repo, tag: None, layers: None, by: &by },
            Event::Evicted { sums: &[sum], which: &[eviction] },
            Event::Refused(Refused::Upload { tenant: &tenant }),
        ] {
            metrics.on(&event);
        }
        let reading = metrics.tenants.of(&tenant).reading();
        assert_eq!((reading.exports, reading.imports, reading.import_misses), (2, 1, 1));
        assert_eq!((reading.hits, reading.misses), (1, 1));
        assert_eq!((metrics.export_seconds.get_sample_count(), metrics.import_seconds.get_sample_count()), (1, 0));
        assert_eq!(metrics.uploads_refused.get(), 1);
        let shown = metrics.render();
        for line in [
            r#"larder_evictions_total{rule="room",tenant="default"} 3"#,
            r#"larder_evicted_bytes_total{rule="room",tenant="default"} 30"#,
        ] {
            assert!(shown.contains(line), "{line}");
        }
        let builds = metrics.recent.builds().into_iter().map(|build| (build.action, build.found, build.tag));
        let builds: Vec<_> = builds.collect();
        let [x, y] = tags.try_into().unwrap();
        let [import, export] = [BuildAction::Import, BuildAction::Export];
        let exported = |tag: &Tag| (export, None, Some(tag.clone()));
        let missed = (import, Some(false), Some(x.clone()));
        assert_eq!(builds, [(import, Some(true), None), missed, exported(&y), exported(&x)]);
        assert_eq!(metrics.recent.evictions().len(), 1);
    }
}
