//! `twinsand check --repair` as a person uses it: first told, then done, and nothing else.

mod common;

use common::pool::{Place, said};
use twinsan::format::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, Superblock};

/// The superblock that counts.
fn superblock(place: &Place) -> Superblock {
    let image = place.image();
    let parse = |copy: usize| {
        let from = SUPERBLOCK_OFFSETS[copy] as usize;
        let block: [u8; SUPERBLOCK_BYTES] =
            image[from..from + SUPERBLOCK_BYTES].try_into().expect("4096 bytes");
        Superblock::parse(&block, copy as u8).ok()
    };
    [0, 1].into_iter().filter_map(parse).max_by_key(|block| block.generation.get()).expect("a superblock")
}

/// Where the checkpoint lies: in the first copy, and in the second.
fn checkpoint(place: &Place) -> [u64; 2] {
    let block = superblock(place);
    let area = block.checkpoint_number.get() % 2;
    let second = block.spare[0].get() + block.log_bytes.get() + area * block.checkpoint_area_bytes.get();
    [block.checkpoint_offsets[area as usize].get(), second]
}

#[test]
fn what_is_damaged_is_told_and_repaired_only_when_asked() {
    let place = Place::new("copies");
    assert!(place.check(&[]).status.success());
    let [first, second] = checkpoint(&place);
    for (offset, what) in [(second, "checkpoint"), (first, "checkpoint"), (64 << 10, "superblock copy 1")] {
        // After each repair the checkpoint lies in the other area.
        let offset =
            if what == "checkpoint" { checkpoint(&place)[usize::from(offset == second)] } else { offset };
        place.damage(offset + 20);
        let before = place.image();
        let told = place.check(&[]);
        assert_eq!(told.status.code(), Some(1), "{}", said(&told));
        assert!(said(&told).contains("disk0.img") && said(&told).contains(what), "{}", said(&told));
        assert!(what != "checkpoint" || said(&told).contains(&format!("byte {offset}")), "{}", said(&told));
        assert!(said(&told).contains("nothing was changed"), "{}", said(&told));
        assert!(place.image() == before, "a check writes nothing");
        let repaired = place.check(&["--repair"]);
        assert!(
            repaired.status.success() && said(&repaired).contains("1 repaired, 0 left"),
            "{}",
            said(&repaired)
        );
        let clean = place.check(&[]);
        assert!(clean.status.success() && !said(&clean).contains("damaged"), "{}", said(&clean));
    }
}

#[test]
fn a_sound_pool_is_left_alone() {
    let place = Place::new("sound");
    let before = place.image();
    assert!(place.check(&["--repair"]).status.success());
    assert!(place.image() == before);
}

#[test]
fn what_cannot_be_repaired_is_named_and_left_alone() {
    let place = Place::new("beyond");
    let both = checkpoint(&place);
    both.iter().for_each(|offset| place.damage(offset + 20));
    let before = place.image();
    let refused = place.check(&["--repair"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    for offset in both {
        assert!(said(&refused).contains(&format!("byte {offset}")), "{}", said(&refused));
    }
    assert!(place.image() == before);
}
