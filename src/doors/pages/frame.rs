//! The frame of all pages.

use maud::{DOCTYPE, Markup, html};

pub fn page(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – larder" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    a.home href="/" { "larder" }
                    nav aria-label="Pages" {
                        a href="/repositories" { "Repositories" }
                        a href="/scopes" { "Scopes" }
                        a href="/evictions" { "Evictions" }
                        a href="/jobs" { "Jobs" }
                    }
                    (search(""))
                }
                main {
                    h1 { (title) }
                    (body)
                }
                footer {
                    p {
                        "larder " (env!("CARGO_PKG_VERSION")) " · "
                        a href="/metrics" { "metrics" } " · "
                        "each page is JSON, too: ask for " code { "application/json" }
                    }
                }
            }
        }
    }
}

fn search(known: &str) -> Markup {
    html! {
        form.search role="search" action="/repositories" method="get" {
            label for="q" { "Search repositories and tags" }
            input id="q" name="q" type="search" value=(known) maxlength="200";
            button type="submit" { "Search" }
        }
    }
}

pub fn refused(why: &str) -> Markup {
    html! { p.refused { (why) } }
}

/// The heading of a column, which stands where the cells below it do.
#[derive(Clone, Copy)]
pub enum Column {
    Text(&'static str),
    /// Of cells of the class `number`, which stand on the right.
    Number(&'static str),
}

/// A table that scrolls by itself where the screen is narrow.
pub fn table(label: &str, columns: &[Column], rows: &[Markup]) -> Markup {
    html! {
        @if rows.is_empty() {
            p.nothing { "Nothing." }
        } @else {
            div.wide role="region" aria-label=(label) tabindex="0" {
                table {
                    thead {
                        tr {
                            @for column in columns {
                                @match column {
                                    Column::Text(name) => th scope="col" { (name) },
                                    Column::Number(name) => th.number scope="col" { (name) },
                                }
                            }
                        }
                    }
                    tbody { @for row in rows { tr { (row) } } }
                }
            }
        }
    }
}
