//! The reference as pages in Markdown: an index, and one for each name.

use super::{Entry, GROUPS, Group};

/// Each page's file name and text; they lie in `docs/reference/`.
pub fn pages() -> Vec<(String, String)> {
    let mut pages = vec![("README.md".to_owned(), index())];
    for group in &GROUPS {
        pages.extend(group.entries.iter().map(|entry| (file_of(entry), page(group, entry))));
    }
    pages
}

fn file_of(entry: &Entry) -> String {
    format!("{}.md", entry.name.replace(':', "."))
}

fn index() -> String {
    let mut text = String::from(
        "# Reference\n\nEvery name that scripts see, each on its page: what it takes, what it returns, its errors, what it costs, and an\n\
         example that runs. What holds everywhere (mistakes raise, the world returns `nil, why`, durations, what waits) is in\n\
         [scripts.md](../scripts.md). Editors get the same as types: `moonwire types`.\n",
    );
    for group in &GROUPS {
        text.push_str(&format!("\n## {}\n\n| name | |\n| --- | --- |\n", group.title));
        for entry in group.entries {
            text.push_str(&format!("| [`{}`]({}) | {} |\n", entry.name, file_of(entry), first_sentence(entry.does)));
        }
    }
    text
}

/// The text up to the end of its first sentence, in a table's cell.
fn first_sentence(text: &str) -> String {
    let end = text.match_indices(['.', ':']).find(|(at, _)| {
        let rest = &text[at + 1..];
        rest.is_empty() || (rest.starts_with(' ') && text[..*at].matches('`').count().is_multiple_of(2))
    });
    cell(end.map_or(text, |(at, _)| &text[..at]))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn page(group: &Group, entry: &Entry) -> String {
    let mut text = format!("# {}\n\n", entry.name);
    let shown = if entry.is_function() {
        format!("{}{}", entry.name, entry.signature)
    } else {
        format!("{}: {}", entry.name, entry.signature)
    };
    text.push_str(&format!("`{shown}`\n\n{}\n", entry.does));
    if !entry.arguments.is_empty() {
        text.push_str("\n| argument | |\n| --- | --- |\n");
        for (name, means) in entry.arguments {
            text.push_str(&format!("| `{}` | {} |\n", cell(name), cell(means)));
        }
    }
    if !entry.results.is_empty() {
        text.push_str(&format!("\n**Returns**\n\n{}\n", entry.results));
    }
    if !entry.errors.is_empty() {
        text.push_str("\n**Errors**\n\n");
        for error in entry.errors {
            text.push_str(&format!("- {error}\n"));
        }
    }
    text.push_str(&format!("\n**Cost**\n\n{}\n", entry.cost));
    let kind = if group.title == "Tests" { "lua test" } else { "lua" };
    text.push_str(&format!(
        "\n**Example**\n\n```{kind}\n{}\n```\n\n[All names](README.md)\n",
        entry.example.trim_end()
    ));
    text
}
