//! Files served beside the apps: pages, and what they load.

use std::{
    fs,
    path::{Path, PathBuf},
};

use http_body_util::Either;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeDir;

use super::answer::{Answer, bytes, text, with};
use crate::config::Static;

/// The folders, those with the longest path first.
pub struct Statics {
    folders: Vec<Folder>,
}

struct Folder {
    /// Without a slash at its end.
    prefix: String,
    root: PathBuf,
    files: ServeDir,
}

impl Statics {
    pub fn new(statics: &[Static]) -> Statics {
        let mut folders: Vec<_> = statics
            .iter()
            .map(|each| {
                let prefix = each.path.trim_end_matches('/').to_owned();
                let files = ServeDir::new(&each.folder).redirect_path_prefix(prefix.clone());
                Folder { prefix, root: each.folder.clone(), files }
            })
            .collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.prefix.len()));
        Statics { folders }
    }

    /// None if there is no such file.
    pub async fn serve(&self, parts: &Parts) -> Option<Answer> {
        let path = parts.uri.path();
        let (folder, rest) = self.folders.iter().find_map(|folder| {
            let rest = path.strip_prefix(folder.prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then_some((folder, rest))
        })?;
        if parts.method != Method::GET && parts.method != Method::HEAD {
            let refusal = text(StatusCode::METHOD_NOT_ALLOWED, "files are read with GET or HEAD");
            return Some(with(refusal, ALLOW, "GET, HEAD"));
        }
        let file = PathBuf::from_iter(segments(rest)?);
        let root = folder.root.clone();
        let inside = tokio::task::spawn_blocking(move || is_inside(&root, &file)).await;
        if !inside.unwrap_or(false) {
            return None;
        }
        if rest.is_empty() {
            return redirect(&format!("{path}/"), parts.uri.query());
        }
        folder.read(rest, parts).await
    }
}

impl Folder {
    async fn read(&self, rest: &str, parts: &Parts) -> Option<Answer> {
        let uri = match parts.uri.query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = Uri::try_from(uri).ok()?;
        *request.headers_mut() = parts.headers.clone();
        let answer = match self.files.clone().try_call(request).await {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return None,
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(path = parts.uri.path(), %error, "a file could not be read");
                return None;
            }
        };
        let mut answer = answer.map(Either::Right);
        let headers = answer.headers_mut();
        // Asked for again each time (and answered with 304), so that an edit shows.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        name_charset(headers);
        Some(answer)
    }
}

/// The names in a path, decoded; None if one of them is not for everybody. Hidden files are not:
/// `.git` and `.env` lie beside pages more often than anybody means to publish them.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut names = Vec::new();
    let mut raw = path.split('/').peekable();
    while let Some(segment) = raw.next() {
        let name = percent_decode_str(segment).decode_utf8().ok()?;
        let last = raw.peek().is_none();
        match name.as_bytes() {
            [] if last => {} // a folder
            [] | [b'.', ..] => return None,
            name if name.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0)) => return None,
            _ => names.push(name.into_owned()),
        }
    }
    Some(names)
}

/// Whether the file is a plain file or folder that lies within the root, links followed.
fn is_inside(root: &Path, file: &Path) -> bool {
    let Ok(root) = fs::canonicalize(root) else {
        return false;
    };
    let plain = |path: PathBuf| {
        let path = fs::canonicalize(path).ok().filter(|path| path.starts_with(&root))?;
        let kind = fs::metadata(&path).ok()?.file_type();
        // Opening a pipe would wait for its other end.
        (kind.is_file() || kind.is_dir()).then_some((path, kind.is_dir()))
    };
    match plain(root.join(file)) {
        Some((folder, true)) => plain(folder.join("index.html")).is_some_and(|(_, folder)| !folder),
        Some((_, false)) => true,
        None => false,
    }
}

fn redirect(path: &str, query: Option<&str>) -> Option<Answer> {
    let to = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut answer = bytes(bytes::Bytes::new());
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&to).ok()?);
    Some(answer)
}

fn name_charset(headers: &mut HeaderMap) {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else {
        return;
    };
    if kind.starts_with("text/")
        && !kind.contains("charset")
        && let Ok(kind) = HeaderValue::from_str(&format!("{kind}; charset=utf-8"))
    {
        headers.insert(CONTENT_TYPE, kind);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tempfile::TempDir;

    use super::*;

    /// A folder of pages with a secret beside it.
    fn site() -> (TempDir, Statics) {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("pages");
        fs::create_dir_all(pages.join("sub/.git")).unwrap();
        fs::create_dir_all(pages.join("bare")).unwrap();
        fs::create_dir_all(folder.path().join("more")).unwrap();
        for (name, content) in [
            ("secret", "secret"),
            ("pages/index.html", "<p>home"),
            ("pages/app.js", "0123456789"),
            ("pages/a b.txt", "spaced"),
            ("pages/sub/index.html", "<p>sub"),
            ("pages/.env", "secret"),
            ("pages/sub/.git/config", "secret"),
            ("more/x.txt", "more"),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("secret"), pages.join("out")).unwrap();
        std::os::unix::fs::symlink(folder.path(), pages.join("up")).unwrap();
        std::os::unix::fs::symlink(pages.join("app.js"), pages.join("in.js")).unwrap();
        let statics = Statics::new(&[
            Static { path: "/".to_owned(), folder: pages },
            Static { path: "/more/".to_owned(), folder: folder.path().join("more") },
        ]);
        (folder, statics)
    }

    async fn get(
        statics: &Statics,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<(u16, HeaderMap, String)> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (answer, body) = statics.serve(&parts).await?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Some((answer.status.as_u16(), answer.headers, String::from_utf8(body.to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn files_come_with_their_type_and_are_asked_for_each_time() {
        let (_folder, statics) = site();
        for (path, kind, content) in [
            ("/", "text/html; charset=utf-8", "<p>home"),
            ("/index.html", "text/html; charset=utf-8", "<p>home"),
            ("/app.js?v=1", "text/javascript; charset=utf-8", "0123456789"),
            ("/in.js", "text/javascript; charset=utf-8", "0123456789"),
            ("/a%20b.txt", "text/plain; charset=utf-8", "spaced"),
            ("/sub/", "text/html; charset=utf-8", "<p>sub"),
            ("/more/x.txt", "text/plain; charset=utf-8", "more"),
        ] {
            let (status, headers, body) = get(&statics, "GET", path, &[]).await.unwrap_or_else(|| panic!("{path}"));
            assert_eq!(
                (status, headers[CONTENT_TYPE].to_str().unwrap(), body.as_str()),
                (200, kind, content),
                "{path}"
            );
            assert_eq!(headers[CACHE_CONTROL], "no-cache");
            assert_eq!(headers["x-content-type-options"], "nosniff");
        }
    }

    #[tokio::test]
    async fn ranges_conditions_and_folders_are_understood() {
        let (_folder, statics) = site();
        let (status, headers, body) = get(&statics, "GET", "/app.js", &[("range", "bytes=2-4")]).await.unwrap();
        assert_eq!((status, headers["content-range"].to_str().unwrap(), body.as_str()), (206, "bytes 2-4/10", "234"));
        let since = get(&statics, "GET", "/app.js", &[]).await.unwrap().1["last-modified"].to_str().unwrap().to_owned();
        assert_eq!(get(&statics, "GET", "/app.js", &[("if-modified-since", &since)]).await.unwrap().0, 304);
        let (status, headers, body) = get(&statics, "HEAD", "/app.js", &[]).await.unwrap();
        assert_eq!((status, headers["content-length"].to_str().unwrap(), body.as_str()), (200, "10", ""));
        let (status, headers, _) = get(&statics, "GET", "/sub?a=b", &[]).await.unwrap();
        assert_eq!((status, headers[LOCATION].to_str().unwrap()), (307, "/sub/?a=b"));
        assert_eq!(get(&statics, "POST", "/app.js", &[]).await.unwrap().0, 405);
    }

    #[tokio::test]
    async fn nothing_outside_the_folder_and_nothing_hidden_is_served() {
        let (_folder, statics) = site();
        for path in [
            "/../secret",
            "/sub/../../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/sub/..%2f..%2fsecret",
            "/..%5csecret",
            "/%252e%252e/secret",
            "//secret",
            "/sub//index.html",
            "/%2fetc/passwd",
            "/out",
            "/up/secret",
            "/.env",
            "/%2eenv",
            "/sub/.git/config",
            "/app.js%00.txt",
            "/app.js/",
            "/app.js/x",
            "/bare/",
            "/bare",
            "/%ff",
            "/no",
            "/moreover",
            "/more/",
            "/more/../secret",
            "/more/no.txt",
        ] {
            assert_eq!(get(&statics, "GET", path, &[]).await, None, "{path}");
        }
    }
}
