//! Graphs as pictures: what rests on something is to the right of it.

use maud::{Markup, html};

/// Maximum number of boxes in one picture. The JSON of the page has all.
pub const DRAWN_MAX: usize = 240;
/// Units of the picture.
const BOX: (usize, usize) = (168, 44);
const STEP: (usize, usize) = (216, 56);
const EDGE: usize = 4;

/// A box.
pub struct DrawnNode {
    pub title: String,
    pub below: String,
    /// The whole text, shown when the mouse points at the box.
    pub full: String,
    /// Boxes that it rests on: some of those before it.
    pub parents: Vec<usize>,
    /// It is what the picture is about, and not only on the way to that.
    pub strong: bool,
}

/// Draws what comes first, up to [`DRAWN_MAX`].
pub fn draw(label: &str, nodes: &[DrawnNode]) -> Markup {
    let drawn = &nodes[..nodes.len().min(DRAWN_MAX)];
    let places = places(drawn);
    let right = places.iter().map(|(x, _)| x + BOX.0 + EDGE).max().unwrap_or(0);
    let bottom = places.iter().map(|(_, y)| y + BOX.1 + EDGE).max().unwrap_or(0);
    html! {
        @if drawn.is_empty() {
            p.nothing { "Nothing." }
        } @else {
            div.wide role="region" aria-label=(label) tabindex="0" {
                svg.graph width=(right) height=(bottom) viewBox=(format!("0 0 {right} {bottom}")) role="img" aria-label=(label) {
                    @for (node, to) in drawn.iter().zip(&places) {
                        @for from in node.parents.iter().filter_map(|parent| places.get(*parent)) {
                            path.edge d=(curve(*from, *to)) {}
                        }
                    }
                    @for (node, (x, y)) in drawn.iter().zip(&places) {
                        g.node .strong[node.strong] {
                            title { (node.full) }
                            rect x=(x) y=(y) width=(BOX.0) height=(BOX.1) rx="4" {}
                            text x=(x + 8) y=(y + 18) { (node.title) }
                            text.below x=(x + 8) y=(y + 35) { (node.below) }
                        }
                    }
                }
            }
            @if drawn.len() < nodes.len() {
                p.note { (drawn.len()) " of " (nodes.len()) " are drawn." }
            }
        }
    }
}

/// Upper left corners: a column for each distance from what rests on nothing.
fn places(nodes: &[DrawnNode]) -> Vec<(usize, usize)> {
    let (mut columns, mut heights) = (Vec::<usize>::new(), Vec::<usize>::new());
    let mut places = Vec::new();
    for node in nodes {
        let column = node.parents.iter().filter_map(|parent| columns.get(*parent)).max().map_or(0, |column| column + 1);
        columns.push(column);
        if heights.len() <= column {
            heights.resize(column + 1, 0);
        }
        places.push((EDGE + column * STEP.0, EDGE + heights[column] * STEP.1));
        heights[column] += 1;
    }
    places
}

fn curve(from: (usize, usize), to: (usize, usize)) -> String {
    let (x1, y1, x2, y2) = (from.0 + BOX.0, from.1 + BOX.1 / 2, to.0, to.1 + BOX.1 / 2);
    let middle = (x1 + x2) / 2;
    format!("M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(parents: &[usize]) -> DrawnNode {
        let text = || "a<b".to_string();
        DrawnNode { title: text(), below: text(), full: text(), parents: parents.to_vec(), strong: true }
    }

    #[test]
    fn what_rests_on_something_is_to_the_right_of_it() {
        let nodes = [node(&[]), node(&[]), node(&[0, 1]), node(&[0, 2])];
        let columns: Vec<usize> = places(&nodes).iter().map(|(x, _)| (x - EDGE) / STEP.0).collect();
        assert_eq!(columns, [0, 0, 1, 2]);
        let picture = draw("a", &nodes).into_string();
        assert_eq!(picture.matches("<path").count(), 4);
        assert!(picture.contains("a&lt;b") && !picture.contains("a<b"));
    }

    #[test]
    fn a_picture_is_bounded() {
        let nodes: Vec<DrawnNode> = (0..DRAWN_MAX + 5).map(|at| node(&[at.saturating_sub(1)])).collect();
        let picture = draw("a", &nodes).into_string();
        assert_eq!(picture.matches("<rect").count(), DRAWN_MAX);
        assert!(picture.contains(&format!("{DRAWN_MAX} of {}", DRAWN_MAX + 5)));
    }
}
