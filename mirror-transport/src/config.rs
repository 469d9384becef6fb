//! What a link needs to know.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use twinsan::block::PagePool;
use twinsan::ids::{BootId, NodeName, Uuid};

use crate::notice::{LinkError, Notice};

/// Where and with whom to link, and within what bounds.
#[derive(Clone)]
pub struct LinkConfig {
    /// Which of the two nodes this is. `a` listens, `b` connects.
    pub node: NodeName,
    /// The partnership; the partner's must be the same.
    pub partnership: Uuid,
    /// This life of the node's memory; the same as the node's own.
    pub boot: BootId,
    /// The address of node `a`: where it listens and where `b` connects to. A loopback address.
    pub address: SocketAddr,
    /// Where received blocks are put.
    pub pool: PagePool,
    /// Most bytes waiting to be sent; the link is dropped beyond. The protocol's own credits keep far below.
    pub queue_bytes_max: usize,
    /// Most messages waiting to be sent; the link is dropped beyond.
    pub queue_messages_max: usize,
    /// Is told what an operator wants to know. Called from the link's threads; must not block.
    pub notices: Arc<dyn Fn(Notice) + Send + Sync>,
}

impl LinkConfig {
    /// With the default bounds (256 MiB, 256 Ki messages) and nobody to take notice.
    pub fn new(
        node: NodeName,
        partnership: Uuid,
        boot: BootId,
        address: SocketAddr,
        pool: PagePool,
    ) -> LinkConfig {
        LinkConfig {
            node,
            partnership,
            boot,
            address,
            pool,
            queue_bytes_max: 256 << 20,
            queue_messages_max: 256 << 10,
            notices: Arc::new(|_| {}),
        }
    }

    pub(crate) fn check(&self) -> Result<(), LinkError> {
        if is_loopback(self.address.ip()) { Ok(()) } else { Err(LinkError::NotLoopback(self.address)) }
    }
}

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkConfig(node {}, {})", self.node, self.address)
    }
}
