//! The usual way in Rust: tokio on one thread, tokio-tungstenite, a task and a queue for each peer, no script.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    env,
    rc::Rc,
};

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::mpsc, task::LocalSet};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

type Rooms = Rc<RefCell<HashMap<String, HashMap<u64, mpsc::UnboundedSender<Message>>>>>;

/// What the JSON of a room says.
#[derive(Serialize, Deserialize)]
struct Body {
    r#type: String,
    hops: u64,
    user: String,
    x: i64,
    y: i64,
    visible: bool,
    text: String,
}

/// The JSON with a field changed.
fn routed(message: &Message) -> Option<Message> {
    let mut body: Body = serde_json::from_str(message.to_text().ok()?).ok()?;
    body.hops += 1;
    Some(Message::text(serde_json::to_string(&body).ok()?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port: u16 = env::args().nth(1).and_then(|port| port.parse().ok()).expect("usage: tungstenite PORT");
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (rooms, next) = (Rooms::default(), Rc::new(Cell::new(0)));
    LocalSet::new()
        .run_until(async {
            while let Ok((stream, _)) = listener.accept().await {
                let (rooms, next) = (rooms.clone(), next.clone());
                tokio::task::spawn_local(async move {
                    stream.set_nodelay(true).ok();
                    serve(stream, rooms, next).await
                });
            }
            Ok(())
        })
        .await
}

async fn serve(stream: tokio::net::TcpStream, rooms: Rooms, next: Rc<Cell<u64>>) -> Option<()> {
    let mut path = String::new();
    // The type of the error is that of the library.
    #[allow(clippy::result_large_err)]
    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, note).await.ok()?;
    if path == "/echo" {
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() {
                socket.send(message).await.ok()?;
            }
        }
        return None;
    }
    let id = next.replace(next.get() + 1);
    let (sender, mut queue) = mpsc::unbounded_channel();
    rooms.borrow_mut().entry(path.clone()).or_default().insert(id, sender);
    let (mut write, mut read) = socket.split();
    loop {
        tokio::select! {
            message = read.next() => match message {
                Some(Ok(mut message)) if !message.is_close() => {
                    if path.starts_with("/json/") {
                        message = routed(&message)?;
                    }
                    for (member, queue) in &rooms.borrow()[&path] {
                        if *member != id {
                            let _ = queue.send(message.clone()); // it is going
                        }
                    }
                }
                _ => break,
            },
            Some(message) = queue.recv() => {
                if write.send(message).await.is_err() {
                    break;
                }
            }
        }
    }
    rooms.borrow_mut().get_mut(&path)?.remove(&id);
    None
}
