//! Pushes generated from a seed, the same on every machine: for the tests, for the reference that is asked about them,
//! and for the benchmarks, which include this file by its path.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// A push as received: the bytes of its manifest and of its cacheconfig.
#[derive(Clone)]
pub struct Source {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
}

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A generated digest: the same for the same parts.
pub fn digest(parts: &[&dyn std::fmt::Display]) -> String {
    let mut text = String::from("sha256:");
    for lane in 0..4u64 {
        let mut state = Random(lane);
        for part in parts {
            for byte in part.to_string().bytes().chain([0xff]) {
                state.0 ^= u64::from(byte);
                state.0 = state.next();
            }
        }
        write!(text, "{:016x}", state.next()).unwrap();
    }
    text
}

/// A push under construction.
#[derive(Default)]
pub struct Builder {
    layers: Vec<(String, i64)>,
    records: Vec<Value>,
    diff_ids: BTreeMap<String, String>,
    roots: BTreeMap<String, usize>,
}

impl Builder {
    pub fn layer(&mut self, blob: &str, diff_id: &str, parent: i64) -> i64 {
        self.diff_ids.insert(blob.to_owned(), diff_id.to_owned());
        let layer = (blob.to_owned(), parent);
        let at = self.layers.iter().rposition(|known| *known == layer).unwrap_or(self.layers.len());
        if at == self.layers.len() {
            self.layers.push(layer);
        }
        at as i64
    }

    /// Adds a record; a link is a selector and a record.
    pub fn record(&mut self, digest: &str, inputs: &[Vec<(String, usize)>], result: Option<(i64, String)>) -> usize {
        let link = |(selector, link): &(String, usize)| match selector.as_str() {
            "" => json!({"link": link}),
            _ => json!({"selector": selector, "link": link}),
        };
        let mut record = json!({"digest": digest});
        if let Some((layer, created_at)) = result {
            record["layers"] = json!([{"layer": layer, "createdAt": created_at}]);
        }
        if !inputs.is_empty() {
            record["inputs"] = inputs.iter().map(|links| links.iter().map(link).collect::<Value>()).collect();
        }
        self.records.push(record);
        self.records.len() - 1
    }

    pub fn root(&mut self, digest: &str) -> usize {
        if let Some(&root) = self.roots.get(digest) {
            return root;
        }
        let root = self.record(digest, &[], None);
        self.roots.insert(digest.to_owned(), root);
        root
    }

    /// Numbers the records at random, and leaves out every layer of the manifest for which `lost` is true.
    pub fn finish(mut self, random: &mut Random, mut lost: impl FnMut() -> bool) -> Source {
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &record)| place[record] = at);
        for record in &mut self.records {
            let Some(inputs) = record.get_mut("inputs").and_then(Value::as_array_mut) else { continue };
            for link in inputs.iter_mut().flat_map(|links| links.as_array_mut().unwrap()) {
                link["link"] = json!(place[link["link"].as_u64().unwrap() as usize]);
            }
        }
        let records: Vec<&Value> = order.iter().map(|&record| &self.records[record]).collect();
        let layers =
            self.layers.iter().map(|(blob, parent)| json!({"blob": blob, "parent": parent})).collect::<Value>();
        let config = json!({"layers": layers, "records": records}).to_string().into_bytes();

        let descriptors = self.diff_ids.iter().filter(|_| !lost()).map(|(blob, diff_id)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob, "size": 1000,
                "annotations": {"containerd.io/uncompressed": diff_id, "buildkit/createdat": "2026-01-02T03:04:05.6Z"},
            })
        });
        let mut descriptors: Vec<Value> = descriptors.collect();
        let config_descriptor = json!({
            "mediaType": "application/vnd.buildkit.cacheconfig.v0",
            "digest": digest(&[&config.len()]),
            "size": config.len(),
        });
        let manifest = if random.percent(80) {
            json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config_descriptor, "layers": descriptors,
            })
        } else {
            descriptors.insert(random.below(descriptors.len() + 1), config_descriptor);
            json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors,
            })
        };
        Source { manifest: manifest.to_string().into_bytes(), config }
    }
}

fn created_at(push: usize, step: usize) -> String {
    format!("2026-03-{:02}T{:02}:{:02}:{:02}.5Z", push % 27 + 1, step / 3600 % 24, step / 60 % 60, step % 60)
}

/// Parameters of the pushes of one repository's builds.
#[derive(Clone, Copy)]
pub struct World {
    pub steps: usize,
    /// Percentage of steps whose result differs from build to build.
    pub varying_percent: usize,
    /// Percentage of source files that differ from push to push.
    pub edited_percent: usize,
    /// Percentage of steps that a push has.
    pub built_percent: usize,
    pub links: Links,
}

/// The links to a step that a push knows.
#[derive(Clone, Copy, PartialEq)]
pub enum Links {
    /// The same in each push, as when one builder follows another.
    Alike,
    /// Any of them, to test the union.
    Any,
}

impl World {
    pub fn any(random: &mut Random) -> World {
        World {
            steps: 4 + random.below(24),
            varying_percent: random.below(50),
            edited_percent: random.below(60),
            built_percent: 60 + random.below(41),
            links: Links::Any,
        }
    }
}

/// Builds of one graph of steps: some results vary, sources change, files copied from other steps have content links.
pub fn builds(seed: u64, pushes: usize, world: World) -> Vec<Source> {
    let mut random = Random(seed);
    struct Step {
        op: String,
        inputs: Vec<(usize, String)>,
        varies: bool,
        is_source: bool,
    }
    let mut steps: Vec<Step> = Vec::new();
    for at in 0..world.steps {
        let arity = if at < 2 { 0 } else { [0, 1, 1, 1, 2, 2, 3][random.below(7)] };
        let inputs = (0..arity).map(|input| {
            let near = random.below(at.min(12)) + 1;
            let selector =
                if input > 0 && random.percent(30) { digest(&[&"selector", &random.below(3)]) } else { String::new() };
            (at - near, selector)
        });
        let inputs: Vec<_> = inputs.collect();
        // Few different ops, so that steps of one digest differ in their inputs only.
        let op = digest(&[&"op", &arity, &if random.percent(30) { random.below(world.steps) } else { at }]);
        steps.push(Step {
            op,
            varies: random.percent(world.varying_percent),
            is_source: inputs.is_empty() && at > 1 && random.percent(70),
            inputs,
        });
    }

    let mut sources = Vec::new();
    for push in 0..pushes {
        let mut builder = Builder::default();
        let mut built: Vec<Option<(usize, String, i64)>> = vec![None; steps.len()];
        let recompressed = random.percent(20);
        for (at, step) in steps.iter().enumerate() {
            let parents: Option<Vec<_>> = step.inputs.iter().map(|(parent, _)| built[*parent].clone()).collect();
            let Some(parents) = parents.filter(|_| random.percent(world.built_percent)) else { continue };
            let edition =
                if step.is_source && random.percent(world.edited_percent) || step.varies { random.below(4) } else { 0 };
            let below = parents.iter().map(|(_, content, _)| content.as_str()).collect::<String>();
            let content = digest(&[&"content", &step.op, &below, &edition]);
            let parent_layer = parents.first().map_or(-1, |(_, _, layer)| *layer);
            let has_layer = !step.inputs.is_empty() && random.percent(85);
            let layer = if has_layer {
                let blob = if recompressed { digest(&[&"zstd", &content]) } else { digest(&[&"gzip", &content]) };
                builder.layer(&blob, &content, parent_layer)
            } else {
                parent_layer
            };
            let mut inputs = Vec::new();
            for ((parent, parent_content, _), (_, selector)) in parents.iter().zip(&step.inputs) {
                let mut links = vec![(selector.clone(), *parent)];
                let mut of_step = Random((at * 16 + inputs.len()) as u64);
                let random = if world.links == Links::Alike { &mut of_step } else { &mut random };
                if random.percent(50) {
                    links.push((String::new(), builder.root(&digest(&[&"checksum", parent_content, selector]))));
                    if random.percent(20) {
                        links.remove(0);
                    }
                }
                inputs.push(links);
            }
            let record = if step.is_source {
                builder.root(&digest(&[&"checksum", &content]))
            } else if step.inputs.is_empty() {
                builder.root(&if random.percent(5) { format!("random:{at}") } else { step.op.clone() })
            } else {
                let result = (has_layer && layer >= 0).then(|| (layer, created_at(push, at)));
                builder.record(&step.op, &inputs, result)
            };
            built[at] = Some((record, content, layer));
        }
        let mut losses = random.clone();
        sources.push(builder.finish(&mut random, || losses.percent(2)));
    }
    sources
}

/// Graphs without a meaning: few digests, many common links, loops between pushes.
pub fn tangles(seed: u64, pushes: usize, records: usize) -> Vec<Source> {
    let mut random = Random(seed);
    let digests = 3 + random.below(6);
    let mut sources = Vec::new();
    for push in 0..pushes {
        let mut builder = Builder::default();
        for at in 0..records {
            let op = random.below(digests);
            let arity = if at < 3 || random.percent(20) { 0 } else { 1 + op % 3 };
            let known = builder.records.len();
            let link = |random: &mut Random| {
                (if random.percent(20) { digest(&[&"selector"]) } else { String::new() }, random.below(known))
            };
            let inputs: Vec<Vec<_>> =
                (0..arity).map(|_| (0..1 + random.below(2)).map(|_| link(&mut random)).collect()).collect();
            let result = random.percent(70).then(|| {
                let bottom = digest(&[&"diff", &random.below(3)]);
                let bottom = builder.layer(&bottom, &bottom, -1);
                let top = digest(&[&"diff", &random.below(3)]);
                let layer = if random.percent(50) { bottom } else { builder.layer(&top, &top, bottom) };
                (layer, created_at(push, at))
            });
            match arity {
                0 => builder.root(&digest(&[&"op", &op, &0])),
                _ => builder.record(&digest(&[&"op", &op, &1]), &inputs, result),
            };
        }
        sources.push(builder.finish(&mut random, || false));
    }
    sources
}
