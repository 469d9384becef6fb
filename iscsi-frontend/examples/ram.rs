//! Serves a volume in memory, to measure the front end alone: `ram PORT [SIZE_MIB] [PORT_GROUP]`.

#[path = "../tests/common/ram.rs"]
mod ram;

use std::sync::Arc;

use twinsan_iscsi::{Access, Server, TargetConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("ram PORT [SIZE_MIB] [PORT_GROUP]")?.parse()?;
    let mebibytes: u64 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let group: u16 = arguments.next().map_or(Ok(1), |text| text.parse())?;

    let mut config = TargetConfig::new("iqn.2026-01.example.twinsan:ram");
    config.portals = vec![([127, 0, 0, 1], port).into()];
    config.portal_group = group;
    config.partner_portal_group = 3 - group;
    let volume = Arc::new(ram::RamVolume::new(1, mebibytes << 11, config.pages.clone()));
    let access = Access::for_anyone([(0, volume as _)]);
    let name = config.names[0].clone();
    let server = Server::start(config, access)?;
    for address in server.local_addrs() {
        println!("iscsi://{address}/{name}/0");
    }
    loop {
        std::thread::park();
    }
}
