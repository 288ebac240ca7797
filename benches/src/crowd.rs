//! Many connections on one epoll and one thread, so that they cost little beside the server.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::{AddressFamily, SocketFlags, SocketType},
};

use crate::wire::{self, Reader, Seen};

/// Connections from one address; the next ones come from the next address, so that ports suffice.
const PER_ADDRESS: usize = 20_000;
/// Handshakes under way at once, below what servers put up with.
const SHAKING: usize = 24;
/// Longer than any of them should take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that came to a connection.
#[derive(Clone, Copy)]
pub struct Heard {
    pub peer: usize,
    pub what: What,
    pub at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Opened {
        /// It was offered and agreed on.
        compresses: bool,
    },
    Message {
        /// The first bytes, or as many as there are.
        start: [u8; 12],
        compressed: bool,
    },
    /// The server has left, with this code; 1006 if it said none.
    Closed(u16),
}

struct Peer {
    stream: TcpStream,
    /// The answer to the handshake, until it is whole.
    answer: Option<Vec<u8>>,
    reader: Reader,
    unsent: VecDeque<u8>,
}

pub struct Crowd {
    port: u16,
    epoll: OwnedFd,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    /// The beginning of the message that came last.
    pub last: Vec<u8>,
}

impl Crowd {
    pub fn new(port: u16) -> io::Result<Crowd> {
        Ok(Crowd {
            port,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            peers: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; 256 * 1024],
            last: Vec::new(),
        })
    }

    /// Begins a connection; `Opened` tells that the server has agreed.
    pub fn open(&mut self, path: &str, compressed: bool) -> io::Result<usize> {
        let place = self.free.pop().unwrap_or(self.peers.len());
        // The kernel answers for a server that listens: this does not wait for the server itself.
        let mut stream = self.stream(place)?;
        stream.set_nodelay(true)?;
        let offer = if compressed { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n",
            port = self.port
        );
        stream.write_all(request.as_bytes())?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, EventData::new_u64(place as u64), EventFlags::IN)?;
        let peer = Peer { stream, answer: Some(Vec::new()), reader: Reader::default(), unsent: VecDeque::new() };
        if place == self.peers.len() {
            self.peers.push(Some(peer));
        } else {
            self.peers[place] = Some(peer);
        }
        Ok(place)
    }

    fn stream(&self, place: usize) -> io::Result<TcpStream> {
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        let address = place / PER_ADDRESS;
        if address == 0 {
            return TcpStream::connect(server);
        }
        let stream = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&stream, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 1 + address as u8), 0))?;
        rustix::net::connect(&stream, &server)?;
        Ok(TcpStream::from(stream))
    }

    /// Opens `count` connections on `path`, and waits until all are there.
    pub fn open_all(&mut self, path: &str, count: usize) -> io::Result<Vec<usize>> {
        self.open_each(count, |_| path.to_owned())
    }

    /// Opens `count` connections, each on a path of its own, and waits until all are there.
    pub fn open_each(&mut self, count: usize, path: impl Fn(usize) -> String) -> io::Result<Vec<usize>> {
        let (mut begun, mut opened) = (Vec::with_capacity(count), 0);
        let mut heard = Vec::new();
        while opened < count {
            while begun.len() < count && begun.len() - opened < SHAKING {
                begun.push(self.open(&path(begun.len()), false)?);
            }
            let until = Instant::now() + PATIENCE;
            heard.clear();
            if !self.wait(Some(until), &mut heard)? && Instant::now() >= until {
                return Err(io::Error::other(format!("after {opened} of {count} handshakes no more are answered")));
            }
            for heard in &heard {
                match heard.what {
                    What::Opened { .. } => opened += 1,
                    What::Message { .. } => {}
                    What::Closed(code) => {
                        return Err(io::Error::other(format!(
                            "the server closed a connection with {code} when {opened} of {count} were open"
                        )));
                    }
                }
            }
        }
        Ok(begun)
    }

    /// Sends now what the kernel takes, and the rest when it takes more.
    pub fn send(&mut self, place: usize, bytes: &[u8]) -> io::Result<()> {
        let Some(peer) = &mut self.peers[place] else { return Ok(()) };
        if !peer.unsent.is_empty() {
            peer.unsent.extend(bytes);
            return Ok(());
        }
        let sent = match peer.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // Reading tells that it is closed.
            Err(_) => return Ok(()),
        };
        if sent < bytes.len() {
            peer.unsent.extend(&bytes[sent..]);
            let flags = EventFlags::IN | EventFlags::OUT;
            epoll::modify(&self.epoll, &peer.stream, EventData::new_u64(place as u64), flags)?;
        }
        Ok(())
    }

    /// Leaves, with a close frame or without a word.
    pub fn close(&mut self, place: usize, politely: bool) -> io::Result<()> {
        if politely {
            self.send(place, &wire::frame(wire::CLOSE, &1000u16.to_be_bytes()))?;
        }
        if self.peers[place].take().is_some() {
            self.free.push(place);
        }
        Ok(())
    }

    /// Waits until something comes, or until then; false if nothing has come.
    pub fn wait(&mut self, until: Option<Instant>, heard: &mut Vec<Heard>) -> io::Result<bool> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let mut events = [MaybeUninit::<Event>::uninit(); 1024];
        let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let (place, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(EventFlags::OUT) {
                self.flush(place)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.read(place, heard)?;
            }
        }
        Ok(!heard.is_empty())
    }

    fn flush(&mut self, place: usize) -> io::Result<()> {
        let Some(peer) = &mut self.peers[place] else { return Ok(()) };
        while !peer.unsent.is_empty() {
            match peer.stream.write(peer.unsent.as_slices().0) {
                Ok(sent) => drop(peer.unsent.drain(..sent)),
                Err(_) => return Ok(()),
            }
        }
        epoll::modify(&self.epoll, &peer.stream, EventData::new_u64(place as u64), EventFlags::IN)?;
        Ok(())
    }

    /// One read: of who has more to say, epoll tells again.
    fn read(&mut self, place: usize, heard: &mut Vec<Heard>) -> io::Result<()> {
        let Some(peer) = &mut self.peers[place] else { return Ok(()) };
        let length = match peer.stream.read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        let at = Instant::now();
        let mut code = (length == 0).then_some(1006);
        let mut data = &self.buffer[..length];
        let rest;
        if let Some(answer) = &mut peer.answer {
            answer.extend_from_slice(data);
            let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
                if length == 0 {
                    return Err(io::Error::other("the server closed a connection that asked for a WebSocket"));
                }
                return Ok(());
            };
            if !answer.starts_with(b"HTTP/1.1 101") {
                return Err(io::Error::other(format!("the server refused: {}", String::from_utf8_lossy(answer))));
            }
            rest = answer.split_off(end + 4);
            let compresses = String::from_utf8_lossy(answer).to_ascii_lowercase().contains("permessage-deflate");
            peer.reader.may_compress = compresses;
            peer.answer = None;
            data = &rest;
            heard.push(Heard { peer: place, what: What::Opened { compresses }, at });
        }
        let (last, mut pings) = (&mut self.last, Vec::new());
        peer.reader.feed(data, |seen| match seen {
            Seen::Message { start: bytes, compressed } => {
                let mut start = [0; 12];
                let length = bytes.len().min(start.len());
                start[..length].copy_from_slice(&bytes[..length]);
                last.clear();
                last.extend_from_slice(bytes);
                heard.push(Heard { peer: place, what: What::Message { start, compressed }, at });
            }
            Seen::Ping(data) => pings.push(data.to_vec()),
            Seen::Close(said) => code = Some(said),
        })?;
        for ping in pings {
            self.send(place, &wire::frame(wire::PONG, &ping))?;
        }
        if let Some(code) = code {
            heard.push(Heard { peer: place, what: What::Closed(code), at });
            self.close(place, false)?;
        }
        Ok(())
    }
}
