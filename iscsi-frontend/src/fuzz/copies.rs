//! Entry point for the parameter list of EXTENDED COPY.

use twinsan::block::{Block, PagePool, Payload};
use twinsan::guest::Command;

use crate::scsi::copy::{Copy, LIST_BYTES_MAX, Order};
use crate::scsi::{Sense, Unit};
use crate::session::drive::{HandVolume, SECTORS, nexus};

/// Requests of a list at most: 32 segments of 16 pieces and one that is cut, each read and written.
const REQUESTS_MAX: usize = 32 * 17 * 2;
/// The LUN of which the host may only read.
const PROTECTED: u16 = 2;
/// The volume that the host does not see.
const HIDDEN: usize = 3;

/// Carries out the list of parameters that follows the first byte. That byte chooses: bit 0 what is read are holes, bit 1
/// the host sees LUN 0 alone, bit 2 it does so after as many requests as the rest of the byte tells. In a list, a designator
/// that begins with `@` and a digit stands for that of the unit at that LUN; `@3` is one that the host never sees. Returns how
/// many requests of volumes come of it.
///
/// # Panics
/// If a unit that is not seen is reached, or one for reading is written, if a request is beyond the end of its volume or the
/// copy has none, or by the bug that is being looked for.
pub fn copy_list(input: &[u8]) -> usize {
    let Some((&how, list)) = input.split_first() else { return 0 };
    let unit =
        |lun: u16| Unit::new(lun, HandVolume::new(u32::from(lun) + 1) as _, lun == PROTECTED, &nexus());
    let mut units: Vec<Unit> = (0..=HIDDEN as u16).map(unit).collect();
    let list = with_designators(list, &units);
    units.truncate(if how & 2 != 0 { 1 } else { HIDDEN });
    let pages = PagePool::new();
    let copy = Order::parse(&list).and_then(|order| Copy::new(&order, &units, 0, &pages));
    let Ok(mut copy) = copy else { return 0 };
    let block = if how & 1 != 0 { Block::Zero } else { Block::Data(pages.take_zeroed().freeze()) };
    let mut requests = 0;
    while let Some(command) = copy.step() {
        requests += 1;
        assert!(requests <= REQUESTS_MAX, "a copy has an end");
        judge(&copy, &command, &units);
        if how & 4 != 0 && requests == usize::from(how >> 3) {
            units.truncate(1);
            if copy.remap(&units).is_some() {
                return requests;
            }
        }
        if answer(&mut copy, &command, &block).is_err() {
            return requests;
        }
    }
    requests
}

/// `@n` in place of a designator becomes that of unit n.
fn with_designators(list: &[u8], units: &[Unit]) -> Vec<u8> {
    let mut list = list[..list.len().min(LIST_BYTES_MAX)].to_vec();
    for descriptor in list.iter_mut().skip(16).collect::<Vec<_>>().chunks_exact_mut(32) {
        let lun = usize::from(descriptor[9].wrapping_sub(b'0'));
        if *descriptor[8] == b'@'
            && let Some(unit) = units.get(lun)
        {
            descriptor[8..24].iter_mut().zip(unit.naa()).for_each(|(byte, of_unit)| **byte = *of_unit);
        }
    }
    list
}

/// May this be asked of whom it is asked?
fn judge(copy: &Copy, command: &Command, units: &[Unit]) {
    let asked = copy.volume().expect("someone is asked").info();
    let unit = units.iter().find(|unit| unit.volume_id() == asked.id).expect("a unit that is seen");
    let (Command::Read { at } | Command::Write { at, .. } | Command::Zero { at, .. }) = command else {
        panic!("{command:?} is no part of a copy");
    };
    assert!(at.count > 0 && at.end() <= SECTORS, "{at:?} is beyond the end");
    assert!(matches!(command, Command::Read { .. }) || !unit.is_read_only(), "{} is protected", asked.name);
    if let Command::Write { data, .. } = command {
        let touched = at.blocks();
        assert_eq!(data.len() as u64, touched.end - touched.start, "{at:?}");
    }
}

fn answer(copy: &mut Copy, command: &Command, block: &Block) -> Result<(), Sense> {
    let found: Payload = match command {
        Command::Read { at } => at.blocks().map(|_| block.clone()).collect(),
        _ => Payload::new(),
    };
    copy.took(&found)
}
