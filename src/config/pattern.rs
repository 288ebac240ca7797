//! The path patterns of apps: `/chat/{room}`.

use std::cmp::Ordering;

use percent_encoding::percent_decode_str;

/// A whole path, segment by segment; `{name}` stands for exactly one that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Param(String),
}

/// The most exact of the patterns that match `path`, as its place among them, and the path's parameters.
pub fn find<'a>(
    patterns: impl IntoIterator<Item = &'a PathPattern>,
    path: &str,
) -> Option<(usize, Vec<(String, String)>)> {
    patterns
        .into_iter()
        .enumerate()
        .filter_map(|(place, pattern)| Some((place, pattern, pattern.matches(path)?)))
        .min_by(|(_, a, _), (_, b, _)| a.cmp_exactness(b))
        .map(|(place, _, params)| (place, params))
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("must begin with a slash, as in \"/chat/{room}\"".to_owned());
        };
        let mut segments = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && parts.peek().is_some() {
                return Err("has two slashes in a row".to_owned());
            }
            let segment = Segment::parse(part)?;
            if let Segment::Param(name) = &segment
                && segments.contains(&segment)
            {
                return Err(format!("has two parameters with the name `{name}`"));
            }
            segments.push(segment);
        }
        Ok(PathPattern { segments })
    }

    /// The parameters, percent-decoded and in the pattern's order, if it matches the whole of `path`,
    /// which is percent-encoded and without a query.
    pub fn matches(&self, path: &str) -> Option<Vec<(String, String)>> {
        let mut params = Vec::new();
        // Split before decoding: `%2F` is a character of its segment, and no boundary.
        let mut parts = path.strip_prefix('/')?.split('/');
        for segment in &self.segments {
            let part = percent_decode_str(parts.next()?).decode_utf8().ok()?;
            match segment {
                Segment::Literal(literal) if *literal == part => {}
                Segment::Param(name) if !part.is_empty() => params.push((name.clone(), part.into_owned())),
                _ => return None,
            }
        }
        parts.next().is_none().then_some(params)
    }

    /// The names of the parameters.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether both match the same paths.
    pub fn is_equivalent(&self, other: &PathPattern) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(a), Segment::Literal(b)) => a == b,
                (Segment::Param(_), Segment::Param(_)) => true,
                _ => false,
            })
    }

    /// The more exact is less: more literal segments, then the earlier literal one.
    fn cmp_exactness(&self, other: &PathPattern) -> Ordering {
        let exactness = |pattern: &PathPattern| {
            let params: Vec<bool> = pattern.segments.iter().map(|s| matches!(s, Segment::Param(_))).collect();
            (params.iter().filter(|is_param| **is_param).count(), params)
        };
        exactness(self).cmp(&exactness(other))
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, String> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(format!(
                    "has a parameter `{{{name}}}` whose name is not made of letters, digits and `_`, a letter first"
                ));
            }
            return Ok(Segment::Param(name.to_owned()));
        }
        match text.chars().find(|c| c.is_whitespace() || c.is_control() || "{}*?#%\\".contains(*c)) {
            Some('{' | '}') => {
                Err(format!("has braces within `{text}`: a parameter such as `{{room}}` is a whole segment"))
            }
            Some('*') => {
                Err("has a `*`: only `{name}` stands for something else, and for exactly one segment".to_owned())
            }
            Some('?' | '#') => Err("must be a path alone, without a query or a fragment".to_owned()),
            Some('%') => Err("has a `%`: characters stand for themselves here, without percent-encoding".to_owned()),
            Some(c) => Err(format!("has the character {c:?}, which no path has")),
            // Everybody who asks for a path resolves these first.
            None if text == "." || text == ".." => Err(format!("has the segment `{text}`, which no path has")),
            None => Ok(Segment::Literal(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], path: &str, expected: Option<(usize, &[(&str, &str)])>) {
        let parsed: Vec<_> = patterns.iter().map(|pattern| PathPattern::parse(pattern).unwrap()).collect();
        let expected = expected.map(|(place, params)| {
            (place, params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>())
        });
        assert_eq!(find(&parsed, path), expected, "{patterns:?} {path}");
    }

    #[test]
    fn a_path_fits_whole_or_not_at_all() {
        check(&["/chat/{room}"], "/chat/lobby", Some((0, &[("room", "lobby")])));
        check(&["/chat/{room}"], "/chat/a%20b%2Fc", Some((0, &[("room", "a b/c")])));
        check(&["/chat/{room}"], "/ch%61t/x", Some((0, &[("room", "x")])));
        check(&["/a/{b}/c/{d}"], "/a/1/c/2", Some((0, &[("b", "1"), ("d", "2")])));
        check(&["/café"], "/caf%C3%A9", Some((0, &[])));
        check(&["/"], "/", Some((0, &[])));
        check(&["/chat/"], "/chat/", Some((0, &[])));
        for path in ["/chat", "/chat/", "/chat/a/b", "/chat/a/", "chat/a", "/Chat/a", "/chat/%ff", "*", "", "/", "//a"]
        {
            check(&["/chat/{room}"], path, None);
        }
        check(&["/chat"], "/chat/", None);
    }

    #[test]
    fn the_more_exact_pattern_wins_wherever_it_stands() {
        check(&["/{a}/{b}", "/chat/{room}", "/chat/lobby"], "/chat/lobby", Some((2, &[])));
        check(&["/{a}/{b}", "/chat/{room}"], "/chat/x", Some((1, &[("room", "x")])));
        check(&["/{a}/x", "/chat/{b}"], "/chat/x", Some((1, &[("b", "x")])));
        check(&["/a/{x}/{y}", "/{z}/b/c"], "/a/b/c", Some((1, &[("z", "a")])));
    }

    #[test]
    fn patterns_that_match_the_same_paths_are_equivalent() {
        let same = |a: &str, b: &str| PathPattern::parse(a).unwrap().is_equivalent(&PathPattern::parse(b).unwrap());
        assert!(same("/chat/{room}", "/chat/{name}"));
        assert!(!same("/chat/{room}", "/chat/lobby"));
        assert!(!same("/chat/{room}", "/talk/{room}"));
        assert!(!same("/chat/{room}", "/chat/{room}/{more}"));
    }

    #[test]
    fn a_pattern_that_could_not_mean_what_it_says_is_refused() {
        for (pattern, why) in [
            ("chat", "slash"),
            ("", "slash"),
            ("/a//b", "two slashes"),
            ("/{a}/{a}", "two parameters"),
            ("/{}", "letters"),
            ("/{1a}", "letters"),
            ("/{a-b}", "letters"),
            ("/room-{a}", "whole segment"),
            ("/{a", "whole segment"),
            ("/files/*", "exactly one segment"),
            ("/a?b=c", "query"),
            ("/a#b", "fragment"),
            ("/a%20b", "themselves"),
            ("/a b", "character"),
            ("/a/../b", "segment"),
        ] {
            let told = PathPattern::parse(pattern).unwrap_err();
            assert!(told.contains(why), "{pattern}: {told}");
        }
    }
}
