//! Portals: the sockets that initiators connect to.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted. After a failover all hosts come at once, and one that finds no room tries again
/// only after a second.
const BACKLOG: i32 = 4096;

/// Listens at `portal`, for its own family of addresses alone, so that `0.0.0.0` and `[::]` can both be portals.
pub(super) fn listen(portal: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(portal), Type::STREAM, Some(Protocol::TCP))?;
    if portal.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier run that linger do not keep the address.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&portal.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
