//! The limit: one thread, one epoll, one buffer, no library between it and the bytes, no script. It trusts its peers: frames
//! are short, whole messages, masked.

use std::{
    collections::HashMap,
    env,
    io::{self, Read, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

const LISTENER: Token = Token(usize::MAX);

struct Peer {
    stream: TcpStream,
    /// None until its handshake is done.
    path: Option<String>,
    /// What came in and is no whole frame yet.
    left: Vec<u8>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
}

/// What the JSON of a room says.
#[derive(Serialize, Deserialize)]
struct Message<'a> {
    r#type: &'a str,
    hops: u64,
    user: &'a str,
    x: i64,
    y: i64,
    visible: bool,
    text: &'a str,
}

fn main() -> io::Result<()> {
    let port: u16 = env::args().nth(1).and_then(|port| port.parse().ok()).expect("usage: epoll PORT");
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut rooms: HashMap<String, Vec<usize>> = HashMap::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let place = peers.len();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(place), interest)?;
                    peers.push(Some(Peer { stream, path: None, left: Vec::new(), unsent: Vec::new() }));
                }
                continue;
            }
            let place = event.token().0;
            if event.is_writable()
                && let Some(peer) = &mut peers[place]
            {
                flush(peer);
            }
            if event.is_readable()
                && !read(place, &mut peers, &mut rooms, &mut buffer)
                && let Some(path) = peers[place].take().and_then(|peer| peer.path)
                && let Some(room) = rooms.get_mut(&path)
            {
                room.retain(|member| *member != place);
            }
        }
    }
}

/// Everything that has come; false once the peer is gone.
fn read(place: usize, peers: &mut [Option<Peer>], rooms: &mut HashMap<String, Vec<usize>>, buffer: &mut [u8]) -> bool {
    loop {
        let Some(peer) = &mut peers[place] else { return true };
        let length = match peer.stream.read(buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        };
        let whole = length < buffer.len();
        let mut data = &mut buffer[..length];
        let mut joined;
        if !peer.left.is_empty() {
            joined = std::mem::take(&mut peer.left);
            joined.extend_from_slice(data);
            data = &mut joined;
        }
        if peer.path.is_none() {
            let Some(path) = shake(peer, data) else { return false };
            if path != "/echo" {
                rooms.entry(path.clone()).or_default().push(place);
            }
            peer.path = Some(path);
            continue;
        }
        let is_json = peer.path.as_ref().is_some_and(|path| path.starts_with("/json/"));
        // Answers of one read are written at once.
        let mut out = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = frame(&data[at..]) {
            let (start, end) = (at + start, at + end);
            if data[at] & 0x0f == 8 {
                return false;
            }
            let mask = [data[start - 4], data[start - 3], data[start - 2], data[start - 1]];
            for (place, byte) in data[start..end].iter_mut().enumerate() {
                *byte ^= mask[place & 3];
            }
            if is_json {
                let Ok(mut message) = serde_json::from_slice::<Message<'_>>(&data[start..end]) else { return false };
                message.hops += 1;
                let Ok(text) = serde_json::to_vec(&message) else { return false };
                head(&mut out, data[at], text.len());
                out.extend_from_slice(&text);
            } else {
                head(&mut out, data[at], end - start);
                out.extend_from_slice(&data[start..end]);
            }
            at = end;
        }
        peer.left = data[at..].to_vec();
        let path = peer.path.clone().unwrap_or_default();
        if path == "/echo" {
            send(peer, &out);
        } else if let Some(room) = rooms.get(&path) {
            for member in room.iter().filter(|member| **member != place) {
                if let Some(member) = &mut peers[*member] {
                    send(member, &out);
                }
            }
        }
        if whole {
            return true;
        }
    }
}

/// Where the payload of the first frame begins and ends, if it is whole.
fn frame(data: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match data.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*data.get(2)?, *data.get(3)?]))),
        127 => (10, u64::from_be_bytes(data.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let (start, end) = (head + 4, head + 4 + length);
    (data.len() >= end).then_some((start, end))
}

fn head(out: &mut Vec<u8>, first: u8, length: usize) {
    out.push(first);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

fn send(peer: &mut Peer, out: &[u8]) {
    if out.is_empty() {
        return;
    }
    if peer.unsent.is_empty() {
        let sent = peer.stream.write(out).unwrap_or(0);
        peer.unsent.extend_from_slice(&out[sent..]);
    } else {
        peer.unsent.extend_from_slice(out);
    }
}

fn flush(peer: &mut Peer) {
    while !peer.unsent.is_empty() {
        match peer.stream.write(&peer.unsent) {
            Ok(sent) if sent > 0 => drop(peer.unsent.drain(..sent)),
            _ => return,
        }
    }
}

/// Answers the handshake; its path.
fn shake(peer: &mut Peer, data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let path = text.split(' ').nth(1)?.to_owned();
    let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    send(peer, answer.as_bytes());
    Some(path)
}
