//! Takes the addresses to listen on, or says what stands in the way.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener as StdUnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel may hold for us between two accepts.
const BACKLOG: i32 = 4096;

pub fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // For connections of an earlier run in TIME_WAIT; a second listener still fails, as it must.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|error| BindError::new(address, error))
}

pub fn bind_unix(path: &Path) -> Result<(StdUnixListener, SocketFile), BindError> {
    let fail = |why| BindError { listen: path.display().to_string(), why };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(fail(Why::NotASocket)),
        Ok(_) => match connect_at_once(path) {
            Ok(_) => return Err(fail(Why::InUse)),
            // Nobody listens: it was left behind by a process that did not end well.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| BindError::new(path.display(), error))?;
            }
            // Its listener has a full backlog, so there is one.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(fail(Why::InUse));
            }
            Err(error) => return Err(BindError::new(path.display(), error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(BindError::new(path.display(), error)),
    }
    let bind = || {
        let listener = StdUnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let made = fs::symlink_metadata(path)?;
        Ok((listener, SocketFile { path: path.to_owned(), id: (made.dev(), made.ino()) }))
    };
    bind().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => fail(Why::NoFolder),
        _ => BindError::new(path.display(), error),
    })
}

/// Without waiting for a place in the backlog: that its listener is busy says enough.
fn connect_at_once(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)
}

/// The file of a unix socket, removed with its listener if it is still the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    pub path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    listen: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    InUse,
    NotPermitted,
    LowPort,
    NotOurs,
    NoFolder,
    NotASocket,
    NoIpv6,
    Other(io::Error),
}

impl BindError {
    fn new(listen: impl fmt::Display, error: io::Error) -> BindError {
        let listen = listen.to_string();
        let low_port = || listen.parse::<SocketAddr>().is_ok_and(|address| address.port() < 1024);
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => Why::InUse,
            io::ErrorKind::AddrNotAvailable => Why::NotOurs,
            io::ErrorKind::PermissionDenied if low_port() => Why::LowPort,
            io::ErrorKind::PermissionDenied => Why::NotPermitted,
            _ if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => Why::NoIpv6,
            _ => Why::Other(error),
        };
        BindError { listen, why }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.listen)?;
        match &self.why {
            Why::InUse => f.write_str(
                "the address is in use (another moonwire, or another program; find it with `ss -ltnp`); \
                 set server.listen to another",
            ),
            Why::LowPort => f.write_str(
                "ports below 1024 are not for every user; set server.listen to a higher one, \
                 or give the binary the right with `setcap cap_net_bind_service=+ep`",
            ),
            Why::NotPermitted => f.write_str(
                "this user may not; set server.listen to a place where it may, or change that folder's rights",
            ),
            Why::NotOurs => f.write_str(
                "no interface of this machine has that address; set server.listen to one that has \
                 (see `ip address`), or to 0.0.0.0 for all",
            ),
            Why::NoFolder => f.write_str("its folder is not there; make it, or set server.listen to another path"),
            Why::NotASocket => f.write_str(
                "there is a file of that name which is not a socket; remove it, or set server.listen to another path",
            ),
            Why::NoIpv6 => f.write_str("this machine has no IPv6; set server.listen to an IPv4 address"),
            Why::Other(error) => write!(f, "{error}; see server.listen"),
        }
    }
}

impl std::error::Error for BindError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{acceptor::Acceptor, config::Listen};

    fn tcp(address: &str) -> Listen {
        Listen::Tcp(address.parse().unwrap())
    }

    fn told(error: Result<Acceptor, BindError>) -> String {
        error.unwrap_err().to_string()
    }

    #[test]
    fn a_second_listener_on_an_address_is_told_what_to_do() {
        let first = Acceptor::bind(&[tcp("127.0.0.1:0")]).unwrap();
        let Listen::Tcp(address) = first.local_addrs()[0] else { panic!("a TCP address") };
        assert_eq!(
            told(Acceptor::bind(&[Listen::Tcp(address)])),
            format!(
                "cannot listen on {address}: the address is in use (another moonwire, or another program; \
                 find it with `ss -ltnp`); set server.listen to another"
            )
        );
        drop(first);
        Acceptor::bind(&[Listen::Tcp(address)]).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_such() {
        let error = told(Acceptor::bind(&[tcp("192.0.2.1:0")]));
        assert!(error.contains("no interface of this machine has that address"), "{error}");
    }

    #[test]
    fn every_bind_error_says_what_to_set() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let low = BindError::new("0.0.0.0:80", denied()).to_string();
        assert!(low.starts_with("cannot listen on 0.0.0.0:80: ports below 1024"), "{low}");
        let high = BindError::new("/run/moonwire.sock", denied()).to_string();
        assert!(high.contains("this user may not; set server.listen"), "{high}");
        let other = BindError::new("[::1]:1", Errno::AFNOSUPPORT.into()).to_string();
        assert!(other.contains("no IPv6"), "{other}");
    }

    #[test]
    fn a_dead_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moonwire.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");

        let live = Acceptor::bind(&[Listen::Unix(path.clone())]).unwrap();
        assert_eq!(live.local_addrs(), [Listen::Unix(path.clone())]);
        let error = told(Acceptor::bind(&[Listen::Unix(path.clone())]));
        assert!(error.contains("the address is in use"), "{error}");
        drop(live);
        assert!(!path.exists(), "a listener that ends takes its file along");

        fs::write(&path, "precious").unwrap();
        let error = told(Acceptor::bind(&[Listen::Unix(path.clone())]));
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

        let error = told(Acceptor::bind(&[Listen::Unix(folder.path().join("no/such.sock"))]));
        assert!(error.contains("its folder is not there"), "{error}");
    }

    #[test]
    fn the_same_port_serves_ipv4_and_ipv6_apart() {
        let Ok(v6) = Acceptor::bind(&[tcp("[::1]:0")]) else {
            return;
        }; // no IPv6 here
        let Listen::Tcp(address) = v6.local_addrs()[0] else { panic!("a TCP address") };
        Acceptor::bind(&[Listen::Tcp(SocketAddr::new("127.0.0.1".parse().unwrap(), address.port()))]).unwrap();
    }
}
