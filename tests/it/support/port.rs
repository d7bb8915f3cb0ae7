//! A port that stays a test's own, also while nobody listens there.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// So many connections may wait to be taken.
const BACKLOG: u32 = 128;

/// A port of the loopback. A server may be stopped and started on it without another test's getting it meanwhile: a
/// socket holds it that is bound and never listens, so who connects is refused, as by a server that is down. Linux lets a
/// second socket listen beside it, because both have `SO_REUSEADDR` set.
#[derive(Debug)]
pub struct Port {
    _held: TcpSocket,
    number: u16,
}

impl Port {
    pub fn hold() -> Self {
        let held = reusable(0);
        let number = held.local_addr().unwrap().port();
        Self { _held: held, number }
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// Listens there. Within a runtime only.
    pub fn listen(&self) -> TcpListener {
        reusable(self.number).listen(BACKLOG).unwrap()
    }
}

fn reusable(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    socket
}
