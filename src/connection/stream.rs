//! The byte stream to one peer, of whichever kind, and its form between two workers.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A stream registered with the runtime of the worker that it is on.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream that belongs to no runtime, so that it can move to another worker. Still non-blocking.
#[derive(Debug)]
pub enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The same expression for every kind of stream.
macro_rules! each {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream {
            Stream::Tcp($inner) => $do,
            Stream::Unix($inner) => $do,
        }
    };
}

impl Stream {
    /// Registers the stream with the runtime that this runs on.
    pub fn from_std(stream: StdStream) -> io::Result<Stream> {
        match stream {
            StdStream::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            StdStream::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }

    /// Takes the stream out of its runtime.
    pub fn into_std(self) -> io::Result<StdStream> {
        match self {
            Stream::Tcp(stream) => stream.into_std().map(StdStream::Tcp),
            Stream::Unix(stream) => stream.into_std().map(StdStream::Unix),
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        each!(self, stream => stream.readable().await)
    }

    pub async fn writable(&self) -> io::Result<()> {
        each!(self, stream => stream.writable().await)
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read_ready(cx))
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx))
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 if the peer has ended its side.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_read(into))
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(bytes))
    }

    /// One slice goes by `send`, which costs the kernel less than `writev`.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [only] => self.try_write(only),
            many => each!(self, stream => stream.try_write_vectored(many)),
        }
    }

    /// Ends our side; the peer's goes on.
    pub fn shutdown_write(&self) -> io::Result<()> {
        each!(self, stream => SockRef::from(stream).shutdown(Shutdown::Write))
    }

    /// Sends a last answer and waits for the peer's end: a stream that is dropped with bytes unread
    /// is reset, and a reset can overtake the answer. The caller sets the deadline.
    pub async fn end_with(&self, mut answer: &[u8]) {
        /// What a peer may still send before it is cut off.
        const MORE: usize = 1 << 20;

        while !answer.is_empty() {
            match self.try_write(answer) {
                Ok(n) => answer = &answer[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.writable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        if self.shutdown_write().is_err() {
            return;
        }
        let mut more = 0;
        while more < MORE && self.readable().await.is_ok() {
            let mut ignored = [0; 4096];
            match self.try_read(&mut ignored) {
                Ok(0) => return,
                Ok(n) => more += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Two ends of a connection over TCP.
    async fn tcp_pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::Tcp(ours), Stream::Tcp(listener.accept().await.unwrap().0))
    }

    fn unix_pair() -> (Stream, Stream) {
        let (a, b) = UnixStream::pair().unwrap();
        (Stream::Unix(a), Stream::Unix(b))
    }

    async fn check(ours: Stream, mut theirs: Stream) {
        ours.writable().await.unwrap();
        let sent = ours.try_write_vectored(&[IoSlice::new(b"mo"), IoSlice::new(b"on")]).unwrap();
        assert_eq!(sent, 4);
        let mut word = [0; 4];
        theirs.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"moon");

        // The other worker's runtime.
        let std = ours.into_std().unwrap();
        let mover = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut ours = Stream::from_std(std).unwrap();
                let mut byte = [0];
                assert_eq!(
                    ours.try_read(&mut byte).unwrap_err().kind(),
                    io::ErrorKind::WouldBlock,
                    "a moved stream stays non-blocking"
                );
                ours.write_all(b"wire").await.unwrap();
                ours.shutdown_write().unwrap();
                let mut rest = Vec::new();
                ours.read_to_end(&mut rest).await.unwrap();
                rest
            })
        });
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"wire");
        theirs.write_all(b"still open this way").await.unwrap();
        drop(theirs);
        assert_eq!(mover.join().unwrap(), b"still open this way");
    }

    #[tokio::test]
    async fn a_stream_moves_to_another_runtime_and_ends_one_side_at_a_time() {
        let (ours, theirs) = tcp_pair().await;
        check(ours, theirs).await;
        let (ours, theirs) = unix_pair();
        check(ours, theirs).await;
    }
}
