//! `moonwire connect`: a WebSocket peer in the terminal, for trying things out and for pipes.
//!
//! Messages go to stdout, one after the other; everything else that happens is told on stderr.

use std::{
    future::poll_fn,
    io::{self, BufRead, Read},
    task::{Poll, ready},
    thread,
    time::Duration,
};

use clap::Args;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use futures_util::{Sink, SinkExt, StreamExt, stream::SplitSink};
use http::{HeaderName, HeaderValue, Response, Uri, header};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    runtime::Builder,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        error::{ProtocolError, SubProtocolError},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{FAILED, Failure, OK, Status, Streams};
use crate::{
    config::parse_duration,
    log::{colour_wanted, grouped},
    visible::{visible, visible_but},
};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// Where to: ws://HOST[:PORT]/PATH
    #[arg(value_name = "URL", value_parser = target)]
    url: Uri,
    /// A header of the handshake; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header_line)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The Origin header, as a browser's page would send it
    #[arg(long, value_name = "ORIGIN", value_parser = header_value)]
    origin: Option<HeaderValue>,
    /// A subprotocol to ask for; may be given several times
    #[arg(long = "subprotocol", value_name = "NAME", value_delimiter = ',', value_parser = token)]
    subprotocols: Vec<String>,
    /// After the end of stdin: leave when nothing has come for so long
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    wait: Duration,
}

const EXAMPLES: &str = "\
Each line of stdin is sent as a text message, except:
  /hex 00ff10               a binary message
  /ping [TEXT]              a ping
  /close [CODE [REASON]]    closes (1000 if no code is given)
To send such a line as text, double its slash: //ping

Exit status: 0 after a normal close (1000, 1001, 1005) or the end of stdin; 1 when refused or closed otherwise.

Examples:
  moonwire connect ws://127.0.0.1:8080/chat/lobby
  echo hi | moonwire connect ws://127.0.0.1:8080/echo
  moonwire connect -H 'Authorization: Bearer TOKEN' ws://127.0.0.1:8080/chat/lobby";

/// What comes from stdin.
#[derive(Debug, PartialEq)]
enum Input {
    Line(String),
    /// The line of this number cannot be sent.
    Unusable(u64, &'static str),
}

/// How far the conversation has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Talking,
    /// Stdin has ended.
    Listening,
    /// A close frame of ours, or of the other end, is on its way.
    Closing {
        since: Instant,
        by: By,
    },
}

/// Who began to close.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// A line said so, with this code.
    Line(u16),
    /// We do, having nothing more to say.
    End,
    Peer,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From our close frame to the other end's.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other end may read nothing of what is still to be sent after the end of stdin.
const STUCK_TIMEOUT: Duration = Duration::from_secs(30);
const LINE_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of a refusal's body that are shown.
const BODY_MAX: usize = 4 * 1024;
/// Bytes of a binary message that are shown on a terminal.
const SHOWN_MAX: usize = 1024;

pub(super) fn run(options: &Options, streams: &mut Streams) -> Result<Status, Failure> {
    let told = |error: io::Error| Failure::Told(FAILED, error.to_string());
    let runtime = Builder::new_current_thread().enable_all().build().map_err(told)?;
    runtime.block_on(async {
        let interrupted = async {
            // Without the handler Ctrl-C ends the process, which is near enough.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        talk(options, read_stdin, interrupted, streams).await
    })
}

async fn talk(
    options: &Options,
    input: impl FnOnce() -> mpsc::Receiver<Input>,
    interrupted: impl Future<Output = ()>,
    streams: &mut Streams<'_>,
) -> Result<Status, Failure> {
    let mut interrupted = std::pin::pin!(interrupted);
    let (stream, subprotocol) = tokio::select! {
        established = establish(options) => established?,
        () = &mut interrupted => return Ok(FAILED),
    };
    let with = subprotocol.map(|name| format!(" (subprotocol {})", visible(&name))).unwrap_or_default();
    note(streams, &format!("connected to {}{with}", visible(&options.url.to_string())))?;
    if streams.err_terminal && streams.out_terminal {
        note(streams, "lines are sent as text; /hex, /ping, /close; Ctrl-D or Ctrl-C leaves")?;
    }
    converse(stream, options.wait, input(), interrupted, streams).await
}

/// The open connection, and the subprotocol that was picked.
async fn establish(options: &Options) -> Result<(WebSocketStream<TcpStream>, Option<String>), Failure> {
    let failed = |why: String| Failure::Told(FAILED, why);
    let host = options.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = options.url.port_u16().unwrap_or(80);
    let address = visible(options.url.authority().map_or(host, |authority| authority.as_str()));
    let seconds = CONNECT_TIMEOUT.as_secs();

    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(failed(format!("nobody listens at {address}; is the relay running, and on this port?")));
        }
        Ok(Err(error)) => return Err(failed(format!("cannot connect to {address}: {error}"))),
        Err(_) => {
            return Err(failed(format!("cannot connect to {address}: no answer within {seconds} s")));
        }
    };
    let (stream, spare) = with_spare(stream).map_err(|error| failed(format!("cannot connect: {error}")))?;
    let handshake = client_async_with_config(request(options)?, stream, None);
    match timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok((stream, response))) => {
            let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            Ok((stream, subprotocol.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())))
        }
        Ok(Err(Error::Http(response))) => Err(failed(refusal(*response, spare).await)),
        Ok(Err(error)) => Err(failed(format!("no WebSocket at {address}: {}", explain(&error)))),
        Err(_) => Err(failed(format!("no answer to the handshake from {address} within {seconds} s"))),
    }
}

/// A second hand on the stream, since a refused handshake keeps the first and what it has not read of the body.
fn with_spare(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let spare = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(spare)?))
}

fn request(options: &Options) -> Result<http::Request<()>, Failure> {
    let failed = |error: Error| Failure::Told(FAILED, format!("no handshake can be made: {}", explain(&error)));
    let mut request = options.url.clone().into_client_request().map_err(failed)?;
    let headers = request.headers_mut();
    for (name, value) in &options.headers {
        // The relay's own host may have to be another's, to see what it says to that.
        match *name == header::HOST {
            true => drop(headers.insert(name, value.clone())),
            false => drop(headers.append(name, value.clone())),
        }
    }
    if let Some(origin) = &options.origin {
        headers.insert(header::ORIGIN, origin.clone());
    }
    if !options.subprotocols.is_empty() {
        let names = HeaderValue::from_str(&options.subprotocols.join(", ")).expect("tokens are header text");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, names);
    }
    Ok(request)
}

/// What the answer to a refused handshake says: its status, and its body, which is read to its end if need be.
async fn refusal(response: Response<Option<Vec<u8>>>, mut spare: TcpStream) -> String {
    const BODY_TIMEOUT: Duration = Duration::from_secs(1);
    let (head, body) = response.into_parts();
    let mut body = body.unwrap_or_default();
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let wanted = length.unwrap_or(BODY_MAX + 1).min(BODY_MAX + 1);
    if body.len() < wanted {
        let rest = (wanted - body.len()) as u64;
        // What has come by then is shown, whatever keeps the rest.
        let _ = timeout(BODY_TIMEOUT, (&mut spare).take(rest).read_to_end(&mut body)).await;
    }

    let mut text = match head.status.is_success() {
        true => format!("there is no WebSocket at this path: it answered like a page, with {}", head.status),
        false => format!("refused with {}", head.status),
    };
    for name in [header::LOCATION, header::RETRY_AFTER] {
        if let Some(value) = head.headers.get(&name) {
            let value = String::from_utf8_lossy(value.as_bytes());
            text.push_str(&format!("\n  {name}: {}", visible(&value)));
        }
    }
    let cut = body.len() > BODY_MAX;
    body.truncate(BODY_MAX);
    let body = String::from_utf8_lossy(&body);
    for line in body.trim().lines() {
        text.push_str(&format!("\n  {}", visible_but(line, &['\t'])));
    }
    if cut {
        text.push('…');
    }
    text
}

async fn converse(
    stream: WebSocketStream<TcpStream>,
    wait: Duration,
    mut input: mpsc::Receiver<Input>,
    interrupted: impl Future<Output = ()> + Unpin,
    streams: &mut Streams<'_>,
) -> Result<Status, Failure> {
    let (mut writer, mut reader) = stream.split();
    let mut interrupted = Some(interrupted);
    let mut outgoing = Outgoing { next: None, unflushed: false };
    let mut phase = Phase::Talking;
    // Since when nothing has come, nor gone.
    let mut quiet_since = Instant::now();
    // The other end's close frame: its code, 1005 if it had none.
    let mut closed: Option<u16> = None;
    loop {
        let deadline = match phase {
            Phase::Talking => None,
            Phase::Listening if outgoing.is_empty() => Some(quiet_since + wait),
            Phase::Listening => Some(quiet_since + STUCK_TIMEOUT),
            Phase::Closing { since, .. } => Some(since + CLOSE_TIMEOUT),
        };
        tokio::select! {
            line = input.recv(), if phase == Phase::Talking && outgoing.is_empty() => {
                quiet_since = Instant::now();
                let Some(line) = line else {
                    phase = Phase::Listening;
                    continue;
                };
                match line_to_message(line) {
                    Ok(message) => {
                        if let Message::Close(frame) = &message {
                            phase = closing(phase, By::Line(code_of(frame.as_ref())));
                        }
                        outgoing.next = Some(message);
                    }
                    Err(why) => note(streams, &format!("not sent: {why}"))?,
                }
            }
            gone = outgoing.drive(&mut writer), if !outgoing.is_empty() => {
                quiet_since = Instant::now();
                if gone.is_err() {
                    // Why it cannot be written is what the reader finds next.
                    outgoing = Outgoing { next: None, unflushed: false };
                    phase = closing(phase, By::Peer);
                }
            }
            came = reader.next() => {
                let message = match came {
                    Some(Ok(message)) => message,
                    Some(Err(error)) if closed.is_none() => {
                        note(streams, &format!("the connection broke: {}", explain(&error)))?;
                        return Ok(FAILED);
                    }
                    Some(Err(_)) | None => return ended(closed, phase, streams),
                };
                match &message {
                    Message::Text(_) | Message::Binary(_) => quiet_since = Instant::now(),
                    Message::Close(frame) => {
                        closed = Some(code_of(frame.as_ref()));
                        // It has been answered by the protocol's own machinery, and nothing may follow.
                        outgoing.next = None;
                        phase = closing(phase, By::Peer);
                    }
                    _ => (),
                }
                show(streams, message)?;
            }
            () = sleep_until(deadline.unwrap_or(quiet_since)), if deadline.is_some() => match phase {
                Phase::Closing { .. } => return ended(closed, phase, streams),
                _ => {
                    if !outgoing.is_empty() {
                        note(streams, "the other end reads nothing; what was left is not sent")?;
                        return Ok(FAILED);
                    }
                    outgoing.next = Some(Message::Close(Some(normal())));
                    phase = closing(phase, By::End);
                }
            },
            () = async { if let Some(interrupted) = &mut interrupted { interrupted.await } }, if interrupted.is_some() => {
                interrupted = None;
                if !matches!(phase, Phase::Closing { .. }) {
                    outgoing.next = Some(Message::Close(Some(normal())));
                    phase = closing(phase, By::End);
                }
            }
        }
    }
}

/// The closing phase; if it has begun already, it goes on.
fn closing(phase: Phase, by: By) -> Phase {
    match phase {
        Phase::Closing { .. } => phase,
        _ => Phase::Closing { since: Instant::now(), by },
    }
}

fn code_of(frame: Option<&CloseFrame>) -> u16 {
    frame.map_or(1005, |frame| frame.code.into())
}

fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

/// The verdict once the connection is gone, or its close has taken too long.
fn ended(closed: Option<u16>, phase: Phase, streams: &mut Streams) -> Result<Status, Failure> {
    match (closed, phase) {
        (Some(1000 | 1001 | 1005), _) => Ok(OK),
        (Some(theirs), Phase::Closing { by: By::Line(ours), .. }) if theirs == ours => Ok(OK),
        (Some(_), _) => Ok(FAILED),
        (None, Phase::Closing { by: By::End, .. }) => Ok(OK),
        (None, _) => {
            note(streams, "the connection ended without a close frame (1006)")?;
            Ok(FAILED)
        }
    }
}

/// At most one message that is not yet with the kernel.
struct Outgoing {
    next: Option<Message>,
    unflushed: bool,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.next.is_none() && !self.unflushed
    }

    /// Ends when one more step is done: the message taken, or flushed. While it waits, reading goes on: two ends
    /// that only write would wait for each other.
    async fn drive(&mut self, writer: &mut SplitSink<WebSocketStream<TcpStream>, Message>) -> Result<(), Error> {
        poll_fn(|context| {
            if self.next.is_some() {
                ready!(writer.poll_ready_unpin(context))?;
                if let Some(message) = self.next.take() {
                    self.unflushed = true;
                    std::pin::Pin::new(&mut *writer).start_send(message)?;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(writer.poll_flush_unpin(context))?;
            self.unflushed = false;
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// Messages to stdout, everything else to stderr.
fn show(streams: &mut Streams, message: Message) -> Result<(), Failure> {
    match message {
        Message::Text(text) => {
            writeln!(streams.out, "{}", visible_but(&text.replace("\r\n", "\n"), &['\n', '\t']))?;
            streams.out.flush()?;
        }
        Message::Binary(bytes) => {
            let shown = if streams.out_terminal { bytes.len().min(SHOWN_MAX) } else { bytes.len() };
            let more = if shown < bytes.len() { "…" } else { "" };
            writeln!(streams.out, "[{}] {}{more}", bytes_of(bytes.len()), HEXLOWER.encode(&bytes[..shown]))?;
            streams.out.flush()?;
        }
        Message::Ping(bytes) => note(streams, &format!("ping{}", payload(&bytes)))?,
        Message::Pong(bytes) => note(streams, &format!("pong{}", payload(&bytes)))?,
        Message::Close(Some(frame)) => {
            let reason = visible(&frame.reason);
            let space = if reason.is_empty() { "" } else { " " };
            note(streams, &format!("closed with {}{space}{reason}", u16::from(frame.code)))?;
        }
        Message::Close(None) => note(streams, "closed without a code (1005)")?,
        Message::Frame(_) => (),
    }
    Ok(())
}

fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => String::new(),
        Ok(text) => format!(" {}", visible(text)),
        Err(_) => format!(" [{}] {}", bytes_of(bytes.len()), HEXLOWER.encode(bytes)),
    }
}

fn bytes_of(length: usize) -> String {
    format!("{} {}", grouped(length as u64), if length == 1 { "byte" } else { "bytes" })
}

fn note(streams: &mut Streams, text: &str) -> Result<(), Failure> {
    match streams.err_terminal && colour_wanted() {
        true => writeln!(streams.err, "\x1b[2m* {text}\x1b[0m")?,
        false => writeln!(streams.err, "* {text}")?,
    }
    Ok(())
}

fn line_to_message(line: Input) -> Result<Message, String> {
    let line = match line {
        Input::Line(line) => line,
        Input::Unusable(number, why) => return Err(format!("line {number} {why}")),
    };
    let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
    match word {
        "/hex" => {
            let digits: String = rest.split_whitespace().collect();
            let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
            bytes.map(Message::binary).map_err(|_| "/hex takes pairs of hexadecimal digits: /hex 00ff10".to_owned())
        }
        "/ping" if rest.len() > 125 => Err("/ping takes at most 125 bytes".to_owned()),
        "/ping" => Ok(Message::Ping(rest.as_bytes().to_vec().into())),
        "/close" => close_frame(rest.trim()).map(|frame| Message::Close(Some(frame))),
        "//hex" | "//ping" | "//close" => Ok(Message::text(&line[1..])),
        _ => Ok(Message::text(line)),
    }
}

fn close_frame(text: &str) -> Result<CloseFrame, String> {
    const REASON_MAX: usize = 123;
    if text.is_empty() {
        return Ok(normal());
    }
    let (code, reason) = text.split_once(' ').unwrap_or((text, ""));
    let code = code.parse::<u16>().ok().map(CloseCode::from).filter(|code| code.is_allowed());
    let Some(code) = code else {
        return Err("/close takes a code that may be sent (1000, or 3000 to 4999): /close 4000 bye".to_owned());
    };
    if reason.len() > REASON_MAX {
        return Err(format!("/close takes a reason of at most {REASON_MAX} bytes"));
    }
    Ok(CloseFrame { code, reason: reason.to_owned().into() })
}

/// Lines from stdin as they come. Its thread is left behind at the end, for nothing can wake it from its read.
fn read_stdin() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || read_lines(io::stdin().lock(), |input| sender.blocking_send(input).is_ok()));
    receiver
}

/// Until the end, or until `send` says that nobody listens any more.
fn read_lines(mut source: impl BufRead, mut send: impl FnMut(Input) -> bool) {
    for number in 1.. {
        let mut line = Vec::new();
        let read = source.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return;
        }
        if line.len() as u64 > LINE_MAX {
            // Where the next line begins cannot be known without reading on.
            send(Input::Unusable(number, "is longer than 16 MiB; nothing after it is read"));
            return;
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.ends_with(b"\r") {
            line.pop();
        }
        let input = match String::from_utf8(line) {
            Ok(line) => Input::Line(line),
            Err(_) => Input::Unusable(number, "is not UTF-8; send it with /hex"),
        };
        if !send(input) {
            return;
        }
    }
}

fn target(text: &str) -> Result<Uri, String> {
    let full = if text.contains("://") { text.to_owned() } else { format!("ws://{text}") };
    let url: Uri = full
        .parse()
        .map_err(|error| format!("it cannot be read: {error}; one is as in ws://127.0.0.1:8080/chat/lobby"))?;
    match url.scheme_str() {
        Some("ws") => (),
        Some("wss") => {
            return Err("wss:// is not spoken here; connect to the relay's own ws:// address, behind the proxy that \
                        does the TLS"
                .to_owned());
        }
        Some(scheme @ ("http" | "https")) => {
            let rest = &full[scheme.len()..];
            return Err(format!("it must begin with ws://; try ws{rest}"));
        }
        _ => return Err("it must begin with ws://".to_owned()),
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("it may hold no user or password; use --header 'Authorization: …'".to_owned());
    }
    if url.host().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    Ok(url)
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let Some((name, value)) = text.split_once(':') else {
        return Err("a header is written 'Name: value'".to_owned());
    };
    let name: HeaderName = name.trim().parse().map_err(|_| format!("\"{name}\" is no name of a header"))?;
    if name == header::SEC_WEBSOCKET_PROTOCOL {
        return Err("use --subprotocol".to_owned());
    }
    if name.as_str().starts_with("sec-websocket-") || name == header::CONNECTION || name == header::UPGRADE {
        return Err(format!("{name} belongs to the handshake itself"));
    }
    Ok((name, header_value(value.trim())?))
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    text.parse().map_err(|_| "it has characters that no header may have".to_owned())
}

fn token(text: &str) -> Result<String, String> {
    // A token is what the name of a header may be.
    text.parse::<HeaderName>().map_err(|_| "a subprotocol is a word of letters, digits and -._~".to_owned())?;
    Ok(text.to_owned())
}

/// What went wrong, in words for somebody who has not written the server.
fn explain(error: &Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "it ended without a close frame (1006)".to_owned()
        }
        Error::Protocol(ProtocolError::HandshakeIncomplete) => "the other end hung up during the handshake".to_owned(),
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol)) => {
            "none of the subprotocols was picked".to_owned()
        }
        Error::Protocol(ProtocolError::HttparseError(_)) => "the answer is not HTTP".to_owned(),
        Error::Protocol(error) => visible(&error.to_string()).into_owned(),
        other => visible(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};
    use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};
    use tokio_tungstenite::accept_async;

    use super::*;

    type Peer = WebSocketStream<TcpStream>;

    fn options(url: &str, more: &[&str]) -> Options {
        let command = Options::augment_args(Command::new("connect"));
        let args = ["connect", url].into_iter().chain(more.iter().copied());
        Options::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    /// Starts a server for one connection.
    async fn server<F: Future<Output = ()> + Send>(
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/chat", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream).await;
        });
        (url, serving)
    }

    /// What stdout, stderr and the exit status are for these lines; None leaves stdin open after them.
    async fn session(options: &Options, lines: &[&str], open: bool) -> (String, String, Status) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, out_terminal: false, err_terminal: false };
        let (sender, receiver) = mpsc::channel(64);
        for line in lines {
            sender.try_send(Input::Line((*line).to_owned())).unwrap();
        }
        let sender = open.then_some(sender);
        let ended = talk(options, || receiver, std::future::pending(), &mut streams).await;
        drop(sender);
        let status = match ended {
            Ok(status) => status,
            Err(Failure::Told(status, why)) => {
                err.extend_from_slice(why.as_bytes());
                status
            }
            Err(Failure::Output(error)) => panic!("{error}"),
        };
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), status)
    }

    async fn echo(stream: TcpStream) {
        let mut peer: Peer = accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = peer.next().await {
            if message.is_text() || message.is_binary() {
                peer.send(message).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn the_echo_is_printed_before_it_leaves() {
        let (url, serving) = server(echo).await;
        let (out, err, status) =
            session(&options(&url, &["--wait", "1s"]), &["hi", "/hex 00 FF", "//ping", "/me waves", ""], false).await;
        assert_eq!(out, "hi\n[2 bytes] 00ff\n/ping\n/me waves\n\n");
        assert_eq!(err, format!("* connected to {url}\n* closed with 1000\n"));
        assert_eq!(status, OK);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn pings_are_answered_and_shown() {
        let (url, serving) = server(|stream| async {
            let mut peer = accept_async(stream).await.unwrap();
            peer.send(Message::Ping(b"are you there"[..].into())).await.unwrap();
            // Either may be first.
            let mut came = [peer.next().await.unwrap().unwrap(), peer.next().await.unwrap().unwrap()];
            came.sort_by_key(Message::is_pong);
            let expected = [Message::Ping(b"hello"[..].into()), Message::Pong(b"are you there"[..].into())];
            assert_eq!(came, expected);
            peer.flush().await.unwrap();
            peer.close(None).await.unwrap();
            while peer.next().await.is_some() {}
        })
        .await;
        let (out, err, status) = session(&options(&url, &[]), &["/ping hello"], true).await;
        assert_eq!((out.as_str(), status), ("", OK));
        assert!(err.contains("* ping are you there\n") && err.contains("* pong hello\n"), "{err}");
        assert!(err.ends_with("* closed without a code (1005)\n"), "{err}");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn the_close_code_decides_the_exit_status() {
        for (code, expected) in [(1000, OK), (1001, OK), (1011, FAILED), (4401, FAILED)] {
            let (url, serving) = server(move |stream| async move {
                let mut peer = accept_async(stream).await.unwrap();
                let frame = CloseFrame { code: code.into(), reason: "because\u{1b}".into() };
                peer.close(Some(frame)).await.unwrap();
                while peer.next().await.is_some() {}
            })
            .await;
            let (_, err, status) = session(&options(&url, &[]), &[], true).await;
            assert_eq!(status, expected);
            assert!(err.ends_with(&format!("* closed with {code} because\\u{{1b}}\n")), "{err}");
            serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_close_that_was_asked_for_is_sent_with_its_code() {
        let (url, serving) = server(|stream| async {
            let mut peer = accept_async(stream).await.unwrap();
            let frame = CloseFrame { code: 4000.into(), reason: "good night".into() };
            assert_eq!(peer.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
            while peer.next().await.is_some() {}
        })
        .await;
        let (_, err, status) = session(&options(&url, &[]), &["/close 4000 good night"], true).await;
        assert!(err.ends_with("* closed with 4000 good night\n"), "{err}");
        assert_eq!(status, OK);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_a_failure() {
        let (url, serving) = server(|stream| async {
            drop(accept_async(stream).await.unwrap());
        })
        .await;
        let (_, err, status) = session(&options(&url, &[]), &[], true).await;
        assert_eq!(status, FAILED);
        assert!(err.contains("without a close frame (1006)"), "{err}");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_shows_its_status_and_the_whole_body() {
        let (url, serving) = server(|mut stream| async move {
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 17\r\n\r\nbad ").await.unwrap();
            // The rest in a packet of its own.
            tokio::task::yield_now().await;
            stream.write_all(b"token\x1b\nsorry\n").await.unwrap();
        })
        .await;
        let (out, err, status) = session(&options(&url, &[]), &["hi"], false).await;
        assert_eq!(out, "");
        assert_eq!(err, "refused with 401 Unauthorized\n  bad token\\u{1b}\n  sorry");
        assert_eq!(status, FAILED);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_said_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (_, err, status) = session(&options(&format!("ws://{address}/"), &[]), &[], false).await;
        assert_eq!(err, format!("nobody listens at {address}; is the relay running, and on this port?"));
        assert_eq!(status, FAILED);
    }

    #[tokio::test]
    async fn what_the_peer_sends_cannot_move_the_cursor() {
        let (url, serving) = server(|stream| async {
            let mut peer = accept_async(stream).await.unwrap();
            peer.send(Message::text("two\r\nlines\tand \u{1b}[2J\u{9b}\r")).await.unwrap();
            while peer.next().await.is_some() {}
        })
        .await;
        let (out, _, status) = session(&options(&url, &[]), &[], false).await;
        assert_eq!(out, "two\nlines\tand \\u{1b}[2J\\u{9b}\\r\n");
        assert_eq!(status, OK);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn the_handshake_carries_what_was_asked_for() {
        let (url, serving) = server(|mut stream| async move {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
            for line in ["x-a: b", "origin: http://a.example", "sec-websocket-protocol: one, two", "host: elsewhere"] {
                assert!(head.contains(&format!("{line}\r\n")), "{head}");
            }
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let more =
            ["--header", "X-A: b", "--origin", "http://a.example", "--subprotocol", "one,two", "-H", "Host: elsewhere"];
        let (_, err, _) = session(&options(&url, &more), &[], false).await;
        assert_eq!(err, "refused with 403 Forbidden");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn two_ends_that_both_write_do_not_wait_for_each_other() {
        let (url, serving) = server(echo).await;
        let line = "x".repeat(1024 * 1024);
        let lines = vec![line.as_str(); 32];
        let (out, _, status) = session(&options(&url, &[]), &lines, false).await;
        assert_eq!(out.len(), 32 * (1024 * 1024 + 1));
        assert_eq!(status, OK);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_interrupt_closes_properly() {
        let (url, serving) = server(|stream| async {
            let mut peer = accept_async(stream).await.unwrap();
            assert_eq!(peer.next().await.unwrap().unwrap(), Message::Close(Some(normal())));
            while peer.next().await.is_some() {}
        })
        .await;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, out_terminal: false, err_terminal: false };
        let options = options(&url, &[]);
        let stream = establish(&options).await.unwrap().0;
        let (_sender, receiver) = mpsc::channel(1);
        let status = converse(stream, options.wait, receiver, std::future::ready(()), &mut streams).await;
        assert_eq!(status.unwrap(), OK);
        serving.await.unwrap();
    }

    #[test]
    fn lines_are_text_unless_they_are_commands() {
        let check = |line: &str, expected: Result<Message, &str>| {
            let made = line_to_message(Input::Line(line.to_owned()));
            assert_eq!(made, expected.map_err(str::to_owned), "{line}");
        };
        let close = |code: u16, reason: &str| {
            Message::Close(Some(CloseFrame { code: code.into(), reason: reason.to_owned().into() }))
        };
        check("hello", Ok(Message::text("hello")));
        check("/hexagon", Ok(Message::text("/hexagon")));
        check("//comment", Ok(Message::text("//comment")));
        check("/hex 0g", Err("/hex takes pairs of hexadecimal digits: /hex 00ff10"));
        check("/hex", Ok(Message::binary(Vec::new())));
        check("/close", Ok(close(1000, "")));
        check("/close 4001 a b", Ok(close(4001, "a b")));
        for bad in ["/close 1005", "/close 1006 x", "/close 99999", "/close soon"] {
            check(bad, Err("/close takes a code that may be sent (1000, or 3000 to 4999): /close 4000 bye"));
        }
        check(&format!("/close 4000 {}", "x".repeat(124)), Err("/close takes a reason of at most 123 bytes"));
    }

    #[test]
    fn stdin_is_read_line_by_line() {
        let mut read = Vec::new();
        read_lines(&b"one\r\n\xff\n\nlast"[..], |input| {
            read.push(input);
            true
        });
        let line = |text: &str| Input::Line(text.to_owned());
        assert_eq!(read, [line("one"), Input::Unusable(2, "is not UTF-8; send it with /hex"), line(""), line("last")]);
    }

    #[test]
    fn a_url_that_cannot_be_spoken_to_is_explained() {
        let check = |text: &str, expected: &str| {
            let answer = target(text).map_or_else(|why| why, |url| url.to_string());
            assert!(answer.starts_with(expected), "{text}: {answer}");
        };
        check("ws://localhost:8080/chat?x=1", "ws://localhost:8080/chat?x=1");
        check("localhost:8080/chat", "ws://localhost:8080/chat");
        check("ws://[::1]:8080", "ws://[::1]:8080/");
        check("wss://a.example/", "wss:// is not spoken here");
        check("http://a.example/chat", "it must begin with ws://; try ws://a.example/chat");
        check("ftp://a.example/", "it must begin with ws://");
        check("ws://ann:secret@a.example/", "it may hold no user or password");
        check("ws:///chat", "it ");
        check("ws://a b/", "it cannot be read");
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_explained() {
        let check = |text: &str, expected: &str| assert_eq!(header_line(text).unwrap_err(), expected);
        check("Authorization", "a header is written 'Name: value'");
        check("Sec-WebSocket-Protocol: x", "use --subprotocol");
        check("Sec-WebSocket-Key: x", "sec-websocket-key belongs to the handshake itself");
        check("a b: c", "\"a b\" is no name of a header");
        assert_eq!(header_line("X-Time: 12:03").unwrap().1, "12:03");
    }
}
