//! WebSockets to other servers, as a script holds them: both ways with a bound, and closed when nobody holds them.
//!
//! A task of its own reads and writes, so that pings are answered while the script does something else. When what
//! it has read is not taken, it reads no more, and the other side is slowed down.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use reqwest::header::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        error::CapacityError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::outgoing::{Headers, Network, Outgoing, cause};

const SCHEMES: [&str; 2] = ["ws", "wss"];

/// What one message counts besides its bytes, so that empty ones have a bound too.
const MESSAGE_COST: usize = 64;

/// Buffers that each socket owns for as long as it is open.
const BUFFER: usize = 8 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type WebSocket = WebSocketStream<Box<dyn Stream>>;

#[derive(Debug)]
pub struct Connect {
    pub url: String,
    pub headers: Headers,
    /// Names as HTTP has them, the one that is liked best first.
    pub subprotocols: Vec<String>,
    pub timeout: Duration,
}

/// An open WebSocket. Dropping it closes it.
pub struct Socket {
    shared: Rc<Shared>,
    subprotocol: Option<String>,
}

struct Shared {
    /// None once it is being closed.
    outgoing: RefCell<Option<mpsc::UnboundedSender<Outbound>>>,
    outgoing_room: Arc<Semaphore>,
    outgoing_max: usize,
    incoming: Mutex<mpsc::Receiver<Inbound>>,
    closing: watch::Sender<bool>,
    /// Why there is nothing more to receive.
    ended: RefCell<Option<String>>,
}

struct Outbound {
    message: Message,
    _room: OwnedSemaphorePermit,
}

struct Inbound {
    message: Message,
    _room: OwnedSemaphorePermit,
}

/// A place among those of `limits.ws_sockets`.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Outgoing {
    /// Opens a WebSocket. The error is for the script's `nil, why`.
    pub async fn connect(&self, connect: Connect) -> Result<Socket, String> {
        let max = self.limits.ws_sockets;
        if self.sockets.get() >= max {
            return Err(format!("as many sockets are open as limits.ws_sockets allows ({max})"));
        }
        self.sockets.set(self.sockets.get() + 1);
        let place = Place(self.sockets.clone());
        let timeout = connect.timeout;
        match tokio::time::timeout(timeout, self.handshake(connect)).await {
            Ok(Ok((websocket, subprotocol))) => Ok(self.open(websocket, subprotocol, place)),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("timeout".to_owned()),
        }
    }

    async fn handshake(&self, connect: Connect) -> Result<(WebSocket, Option<String>), String> {
        let url = self.rules.url(&connect.url, SCHEMES)?;
        if let Network::Stub(_) = &self.network {
            return Err("relay.ws reaches nobody in a test".to_owned());
        }
        let addresses = self.rules.addresses(&url).await?;
        let tcp = TcpStream::connect(&addresses[..]).await.map_err(|error| cause(&error))?;
        // A bridge passes messages on as they come.
        tcp.set_nodelay(true).map_err(|error| cause(&error))?;
        let stream: Box<dyn Stream> = if url.scheme() == "wss" {
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = rustls::pki_types::ServerName::try_from(host).map_err(|error| cause(&error))?;
            let tls = TlsConnector::from(Arc::new(self.tls().await.clone()));
            Box::new(tls.connect(name, tcp).await.map_err(|error| cause(&error))?)
        } else {
            Box::new(tcp)
        };
        let mut request = url.as_str().into_client_request().map_err(|error| format!("bad URL: {error}"))?;
        request.headers_mut().extend(connect.headers.0);
        if !connect.subprotocols.is_empty() {
            let names = HeaderValue::from_str(&connect.subprotocols.join(", "));
            request.headers_mut().insert("sec-websocket-protocol", names.map_err(|_| "bad subprotocol".to_owned())?);
        }
        let max = self.limits.message;
        let config = WebSocketConfig::default()
            .max_message_size(Some(max))
            .max_frame_size(Some(max))
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER);
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (websocket, response) = opened.map_err(|error| self.told(&error))?;
        let subprotocol = response.headers().get("sec-websocket-protocol");
        let subprotocol = subprotocol.and_then(|name| name.to_str().ok()).map(str::to_owned);
        Ok((websocket, subprotocol))
    }

    fn open(&self, websocket: WebSocket, subprotocol: Option<String>, place: Place) -> Socket {
        let limits = &self.limits;
        let (outgoing, sent) = mpsc::unbounded_channel();
        let (received, incoming) = mpsc::channel(limits.inbox_messages);
        let shared = Rc::new(Shared {
            outgoing: RefCell::new(Some(outgoing)),
            outgoing_room: Arc::new(Semaphore::new(limits.outbox)),
            outgoing_max: limits.outbox,
            incoming: Mutex::new(incoming),
            closing: watch::Sender::new(false),
            ended: RefCell::default(),
        });
        let (of, inbox, close_timeout, message) = (shared.clone(), limits.inbox, limits.close_timeout, limits.message);
        tokio::task::spawn_local(async move {
            let why = of.drive(websocket, sent, received, inbox, close_timeout, message).await;
            of.end(why);
            drop(place);
        });
        Socket { shared, subprotocol }
    }

    fn told(&self, error: &tungstenite::Error) -> String {
        told(error, self.limits.message)
    }
}

/// An error in the words of a script's `nil, why`.
fn told(error: &tungstenite::Error, message_max: usize) -> String {
    match error {
        tungstenite::Error::Http(response) => format!("the server answered {}", response.status().as_u16()),
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            format!("a message is larger than limits.message ({message_max} bytes)")
        }
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "closed".to_owned(),
        other => cause(other),
    }
}

/// What sending has come to, if it need not wait.
pub enum Sent {
    Done(Result<(), &'static str>),
    Waits(Sending),
}

/// A message that waits until there is room for it.
pub struct Sending {
    shared: Rc<Shared>,
    message: Message,
    cost: u32,
}

impl Sending {
    pub async fn sent(self) -> Result<(), &'static str> {
        let room = self.shared.outgoing_room.clone().acquire_many_owned(self.cost).await;
        self.shared.push(self.message, room.map_err(|_| "closed")?)
    }
}

/// What waits for the next message.
pub struct Receiving(Rc<Shared>);

impl Receiving {
    /// The next message and whether it is binary.
    pub async fn received(self, timeout: Option<Duration>) -> Result<(Vec<u8>, bool), String> {
        let next = self.0.next();
        let message = match timeout {
            None => next.await,
            Some(timeout) => tokio::time::timeout(timeout, next).await.map_err(|_| "timeout".to_owned())?,
        };
        match message {
            Some(message) => {
                Ok((message.is_binary(), message)).map(|(binary, message)| (message.into_data().into(), binary))
            }
            None => Err(self.0.ended.borrow().clone().unwrap_or_else(|| "closed".to_owned())),
        }
    }
}

impl Socket {
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// `text` must be UTF-8 if it is not binary.
    pub fn send(&self, data: &[u8], binary: bool) -> Sent {
        let message = match std::str::from_utf8(data) {
            Ok(text) if !binary => Message::text(text),
            _ => Message::binary(data.to_vec()),
        };
        let shared = &self.shared;
        // One that is larger than all the room there is goes when there is nothing else.
        let cost = u32::try_from((data.len() + MESSAGE_COST).min(shared.outgoing_max)).unwrap_or(u32::MAX);
        match shared.outgoing_room.clone().try_acquire_many_owned(cost) {
            Ok(room) => Sent::Done(shared.push(message, room)),
            Err(_) if shared.outgoing.borrow().is_none() => Sent::Done(Err("closed")),
            Err(_) => Sent::Waits(Sending { shared: shared.clone(), message, cost }),
        }
    }

    pub fn receive(&self) -> Receiving {
        Receiving(self.shared.clone())
    }

    /// Sends what waits, then a close frame. Nothing more is received.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.outgoing.take();
        self.closing.send_replace(true);
    }

    /// The connection is gone.
    fn end(&self, why: String) {
        self.ended.borrow_mut().get_or_insert(why);
        self.outgoing.take();
        // Whoever waits for room is told.
        self.outgoing_room.close();
    }

    fn push(&self, message: Message, room: OwnedSemaphorePermit) -> Result<(), &'static str> {
        let outgoing = self.outgoing.borrow();
        let pushed = outgoing.as_ref().map(|outgoing| outgoing.send(Outbound { message, _room: room }));
        if matches!(pushed, Some(Ok(()))) { Ok(()) } else { Err("closed") }
    }

    /// None once there is nothing more to receive.
    async fn next(&self) -> Option<Message> {
        let mut incoming = self.incoming.lock().await;
        tokio::select! {
            biased;
            () = self.closed() => None,
            inbound = incoming.recv() => inbound.map(|inbound| inbound.message),
        }
    }

    async fn closed(&self) {
        // It fails only when the sender is gone, and that is ours.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Reads and writes until the connection ends, and says why it did.
    async fn drive(
        &self,
        websocket: WebSocket,
        mut sent: mpsc::UnboundedReceiver<Outbound>,
        received: mpsc::Sender<Inbound>,
        inbox: usize,
        close_timeout: Duration,
        message_max: usize,
    ) -> String {
        let (mut sink, mut stream) = websocket.split();
        let room = Arc::new(Semaphore::new(inbox));
        let reading = async {
            while let Some(next) = stream.next().await {
                let message = match next {
                    Ok(message @ (Message::Text(_) | Message::Binary(_))) => message,
                    Ok(_) => continue,
                    Err(error) => return told(&error, message_max),
                };
                let cost = u32::try_from((message.len() + MESSAGE_COST).min(inbox)).unwrap_or(u32::MAX);
                let deliver = async {
                    if let Ok(room) = room.clone().acquire_many_owned(cost).await {
                        let _ = received.send(Inbound { message, _room: room }).await;
                    }
                };
                // From the close on nobody takes anything, and it is read only to find the other's close.
                tokio::select! {
                    biased;
                    () = self.closed() => {}
                    () = deliver => {}
                }
            }
            "closed".to_owned()
        };
        let writing = async {
            while let Some(Outbound { message, _room }) = sent.recv().await {
                if let Err(error) = sink.send(message).await {
                    return told(&error, message_max);
                }
            }
            let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if sink.send(Message::Close(Some(close))).await.is_err() {
                return "closed".to_owned();
            }
            // The other side answers, and reading ends.
            std::future::pending().await
        };
        let too_late = async {
            self.closed().await;
            tokio::time::sleep(close_timeout).await;
            "closed".to_owned()
        };
        tokio::select! {
            why = reading => why,
            why = writing => why,
            why = too_late => why,
        }
    }
}
