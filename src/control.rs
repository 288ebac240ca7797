//! The local control socket: how another process of the same user asks a running relay to do something.
//!
//! Each request is one line of JSON, and so is each answer: `{"command":"reload"}`.

use std::{
    fmt, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use crate::{reload::Report, visible::visible};

/// The control socket of this process. It is removed when this is dropped.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is at the path by then may be another's.
    file: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    Reload,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub report: Option<Report>,
    /// Why the request was not carried out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// Why the socket cannot be opened. Every kind names the setting.
#[derive(Debug)]
pub enum BindError {
    AlreadyRunning(PathBuf),
    NotASocket(PathBuf),
    TooLong(PathBuf),
    Failed { path: PathBuf, doing: &'static str, error: io::Error },
}

/// Why a running relay gave no answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens there.
    NotRunning,
    TooLong(PathBuf),
    NoAnswer,
    BadAnswer(String),
    Failed(io::Error),
}

/// From the request to the answer; a reload is over long before.
const DEADLINE: Duration = Duration::from_secs(30);
const REQUEST_MAX: usize = 64 * 1024;
const RESPONSE_MAX: u64 = 16 * 1024 * 1024;
/// Requests that are answered at one time; more wait to be accepted.
const EXCHANGES_MAX: usize = 16;
/// Bytes of a path in a socket's address, without the NUL at its end.
const PATH_MAX: usize = 107;

impl Listener {
    /// Opens the socket, for its owner only. One whose process is gone is replaced. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Listener, BindError> {
        let failed = |doing| move |error| BindError::Failed { path: path.to_owned(), doing, error };
        if path.as_os_str().as_bytes().len() > PATH_MAX {
            return Err(BindError::TooLong(path.to_owned()));
        }
        // Between the look and the bind nobody else may do the same.
        let _turn = turn(path).map_err(failed("lock its folder"))?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(failed("look at it")(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) if is_live(path).map_err(failed("see whether it is in use"))? => {
                return Err(BindError::AlreadyRunning(path.to_owned()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed("remove the old one"))?,
        }

        let address = SockAddr::unix(path).map_err(failed("name it"))?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("make it"))?;
        // On Linux the file takes over the mode that the socket has when it is bound; elsewhere nobody can
        // connect yet when the mode is set below, since nothing listens.
        let _ = fchmod(&socket, Mode::RUSR | Mode::WUSR);
        socket.bind(&address).map_err(failed("open it"))?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).map_err(failed("set its permissions"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed("look at it"))?;
        socket.listen(128).map_err(failed("listen on it"))?;
        socket.set_nonblocking(true).map_err(failed("listen on it"))?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed("listen on it"))?;
        Ok(Listener { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Answers until it is dropped. Runs on a `LocalSet`; the handler may be asked again before it has answered.
    pub async fn serve<H, F>(self, handler: H)
    where
        H: Fn(Request) -> F + 'static,
        F: Future<Output = Response> + 'static,
    {
        const PAUSE: Duration = Duration::from_millis(100);
        let handler = Rc::new(handler);
        let mut exchanges = JoinSet::new();
        loop {
            while exchanges.try_join_next().is_some() {}
            if exchanges.len() >= EXCHANGES_MAX {
                exchanges.join_next().await;
                continue;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    exchanges.spawn_local(answer_all(stream, handler.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept a request");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            // The next start removes what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Response {
    pub fn report(report: Report) -> Response {
        Response { ok: report.ok(), report: Some(report), error: None }
    }

    pub fn error(why: impl Into<String>) -> Response {
        Response { ok: false, report: None, error: Some(why.into()) }
    }
}

/// Asks the relay whose control socket this is.
pub async fn ask(path: &Path, request: Request) -> Result<Response, AskError> {
    // The relay gives up first, and says so.
    const PATIENCE: Duration = Duration::from_secs(35);
    if path.as_os_str().as_bytes().len() > PATH_MAX {
        return Err(AskError::TooLong(path.to_owned()));
    }
    let exchange = async {
        let mut stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning,
            _ => AskError::Failed(error),
        })?;
        let mut line = serde_json::to_vec(&request).map_err(|error| AskError::Failed(error.into()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(AskError::Failed)?;
        let mut answer = Vec::new();
        BufReader::new(stream).take(RESPONSE_MAX).read_until(b'\n', &mut answer).await.map_err(AskError::Failed)?;
        if answer.is_empty() {
            return Err(AskError::BadAnswer("it ended before it had answered".to_owned()));
        }
        serde_json::from_slice(&answer).map_err(|error| AskError::BadAnswer(error.to_string()))
    };
    timeout(PATIENCE, exchange).await.unwrap_or(Err(AskError::NoAnswer))
}

async fn answer_all<H, F>(stream: UnixStream, handler: Rc<H>)
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let limit = REQUEST_MAX as u64 + 1;
        let read = timeout(DEADLINE, (&mut reader).take(limit).read_until(b'\n', &mut line)).await;
        let Ok(Ok(1..)) = read else { return };
        let too_long = line.len() > REQUEST_MAX;
        let response = if too_long {
            Response::error(format!("a request may have at most {} KiB", REQUEST_MAX / 1024))
        } else {
            match parse(&line) {
                Ok(request) => timeout(DEADLINE, handler(request)).await.unwrap_or_else(|_| {
                    Response::error(format!("not done within {} s; the log tells how it ends", DEADLINE.as_secs()))
                }),
                Err(why) => Response::error(why),
            }
        };
        let mut answer = serde_json::to_vec(&response).unwrap_or_else(|error| {
            let response = serde_json::json!({ "ok": false, "error": error.to_string() });
            response.to_string().into_bytes()
        });
        answer.push(b'\n');
        let written = timeout(DEADLINE, writer.write_all(&answer)).await;
        if too_long || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    const EXAMPLE: &str = r#"{"command":"reload"}"#;
    let value: Value = serde_json::from_slice(line).map_err(|_| format!("a request is a line of JSON: {EXAMPLE}"))?;
    let Some(command) = value.get("command").and_then(Value::as_str) else {
        return Err(format!("a request names its command: {EXAMPLE}"));
    };
    let command = command.to_owned();
    serde_json::from_value(value).map_err(|_| format!("unknown command \"{}\"; there is \"reload\"", visible(&command)))
}

/// Held while a socket is being opened in this folder. The folder itself is locked, so no file is left behind.
fn turn(path: &Path) -> io::Result<std::fs::File> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::File::open(folder)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            // A lock of somebody else's, or a file system without locks, is no reason not to start.
            Err(_) => return Ok(folder),
        }
    }
}

/// Whether a process listens there. Never waits: a relay that is too busy to accept is alive.
fn is_live(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::AlreadyRunning(path) => write!(
                f,
                "server.control: another moonwire is running with this control socket ({}); \
                 stop it, or give this one another path",
                shown(path)
            ),
            BindError::NotASocket(path) => write!(
                f,
                "server.control: {} is there already and is not a socket; remove it, or set another path",
                shown(path)
            ),
            BindError::TooLong(path) => too_long(f, path),
            BindError::Failed { path, doing, error } => {
                write!(f, "server.control: {}: cannot {doing}: {error}", shown(path))?;
                match error.kind() {
                    io::ErrorKind::NotFound => {
                        write!(f, "; create its folder, or set another path")
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(f, "; set a path that this user may write to")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for BindError {}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotRunning => write!(f, "no relay is running with this control socket"),
            AskError::TooLong(path) => too_long(f, path),
            AskError::NoAnswer => write!(f, "the relay did not answer; its log tells what it is doing"),
            AskError::BadAnswer(why) => {
                write!(f, "the relay's answer cannot be read: {}", visible(why))
            }
            AskError::Failed(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "only the user that the relay runs as may ask it: {error}")
            }
            AskError::Failed(error) => write!(f, "the relay cannot be asked: {error}"),
        }
    }
}

impl std::error::Error for AskError {}

fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}

fn too_long(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    write!(
        f,
        "server.control: the path of a socket may have at most {PATH_MAX} bytes, and this one has {}: {}",
        path.as_os_str().as_bytes().len(),
        shown(path)
    )
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::reload::report::{AppReport, Outcome};

    fn a_report() -> Report {
        let app = AppReport { app: "chat".to_owned(), outcome: Outcome::Unchanged };
        Report { apps: vec![app], ..Report::default() }
    }

    /// Serves in a folder of its own while `test` runs.
    async fn with_relay<T: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> T) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        let listener = Listener::bind(&path).unwrap();
        let local = LocalSet::new();
        local
            .run_until(async {
                let serving =
                    tokio::task::spawn_local(listener.serve(|Request::Reload| async { Response::report(a_report()) }));
                test(path.clone()).await;
                serving.abort();
                let _ = serving.await;
            })
            .await;
        assert!(!path.exists(), "the socket is gone with the relay");
    }

    /// What comes back for these bytes, until the relay ends the exchange.
    async fn raw(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_reload_is_answered_with_its_report() {
        with_relay(|path| async move {
            let response = ask(&path, Request::Reload).await.unwrap();
            assert_eq!(response, Response { ok: true, report: Some(a_report()), error: None });
        })
        .await;
    }

    #[tokio::test]
    async fn several_requests_may_come_on_one_connection() {
        with_relay(|path| async move {
            let answer = raw(&path, b"{\"command\":\"reload\"}\n{\"command\":\"reload\"}").await;
            assert_eq!(answer.lines().count(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn a_mistaken_request_is_told_what_is_wrong_with_it() {
        with_relay(|path| async move {
            let check = async |request: &str, expected: &str| {
                let answer = raw(&path, request.as_bytes()).await;
                assert_eq!(answer, format!("{{\"ok\":false,\"error\":{}}}\n", Value::from(expected)));
            };
            check("{\"command\":\"dance\"}\n", "unknown command \"dance\"; there is \"reload\"").await;
            check("hello\n", "a request is a line of JSON: {\"command\":\"reload\"}").await;
            check("[]\n", "a request names its command: {\"command\":\"reload\"}").await;
        })
        .await;
    }

    #[tokio::test]
    async fn an_endless_request_is_refused_at_64_kib() {
        with_relay(|path| async move {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(&vec![b' '; REQUEST_MAX + 1]).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "{\"ok\":false,\"error\":\"a request may have at most 64 KiB\"}\n");
        })
        .await;
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only() {
        with_relay(|path| async move {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        })
        .await;
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_left_alone() {
        with_relay(|path| async move {
            let error = Listener::bind(&path).err().unwrap().to_string();
            assert_eq!(
                error,
                format!(
                    "server.control: another moonwire is running with this control socket ({}); \
                     stop it, or give this one another path",
                    path.display()
                )
            );
            assert!(ask(&path, Request::Reload).await.unwrap().ok);
        })
        .await;
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(matches!(ask(&path, Request::Reload).await, Err(AskError::NotRunning)));
        let listener = Listener::bind(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_relays_socket_outlives_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        let listener = Listener::bind(&path).unwrap();
        std::fs::rename(&path, folder.path().join("moved.sock")).unwrap();
        let other = Listener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_a_socket_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path, expected: &str| {
            let error = Listener::bind(path).err().unwrap().to_string();
            assert!(error.starts_with("server.control: ") && error.contains(expected), "{error}");
        };
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        check(&file, "is there already and is not a socket; remove it, or set another path");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        check(&folder.path().join("nowhere/moonwire.sock"), "create its folder, or set another path");
        let long = folder.path().join("x".repeat(120));
        check(&long, "the path of a socket may have at most 107 bytes, and this one has 1");
        assert!(matches!(ask(&long, Request::Reload).await, Err(AskError::TooLong(_))));
        assert!(matches!(ask(&folder.path().join("no.sock"), Request::Reload).await, Err(AskError::NotRunning)));
    }

    #[tokio::test]
    async fn of_many_that_start_at_once_one_gets_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Handle::current();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let (path, runtime) = (path.clone(), runtime.clone());
                std::thread::spawn(move || {
                    let _runtime = runtime.enter();
                    Listener::bind(&path)
                })
            })
            .collect();
        let bound: Vec<_> = starts.into_iter().filter_map(|start| start.join().unwrap().ok()).collect();
        assert_eq!(bound.len(), 1);
    }
}
