//! What the larger events of a history do to a world.

use crate::history::{BASE, BOTH, Doing, Joining, NOBODY, Register, Replica, World, only};

pub(crate) fn set_register(w: &mut World, new: Register) {
    w.register_before = w.register;
    w.register = Some(new);
}

pub(crate) fn lose(n: &mut Replica) {
    n.doing = Doing::Lost;
    n.lease = false;
    (n.joining, n.proposed, n.alone_since) = (Joining::No, NOBODY, NOBODY);
}

/// A resync belongs to one connection of two lives.
pub(crate) fn end_session(w: &mut World) {
    for n in w.node.iter_mut().filter(|n| n.doing == Doing::Target) {
        lose(n);
    }
}

pub(crate) fn clear_disk(w: &mut World, i: usize) {
    w.left.losses -= 1;
    let n = &mut w.node[i];
    (n.disk, n.hot, n.log, n.log_lost, n.past) = ([0; _], 0, 0, false, 0);
    w.served_alone[i] = false;
    let other = &w.node[1 - i];
    for b in 0..2 {
        let there = if other.up() { other.cache[b] | other.kept[b] } else { other.disk[b] };
        w.lost |= w.hard[b] & !there != 0 && w.forced != Some(1 - i as u8);
        w.promised[b] &= there;
        w.hard[b] &= there;
    }
}

pub(crate) fn go_alone(w: &mut World, i: usize) {
    let granted = w.register.filter(|r| r.1 == only(i)).map(|r| r.0);
    let epoch = granted.unwrap_or(w.next_epoch());
    let forms = w.promised == [0; 2] && w.node[0].generation == 0 && w.node[1].generation == 0;
    w.node[1 - i].lease = false;
    w.served_alone[i] = true;
    w.owner = i as u8;
    let n = &mut w.node[i];
    (n.epoch, n.members, n.good) = (epoch, only(i), true);
    n.log |= n.hot;
    n.hot = 0;
    for b in 0..2 {
        if n.kept[b] != 0 {
            n.log |= 1 << b;
        }
        n.cache[b] |= std::mem::take(&mut n.kept[b]);
    }
    n.doing = Doing::Alone;
    (n.pair, n.lease) = (0, false);
    (n.joining, n.proposed, n.alone_since) = (Joining::No, NOBODY, NOBODY);
    new_generation(w, i);
    if forms {
        let n = &mut w.node[i];
        // From here on there are data that the other half does not have.
        for b in 0..2 {
            n.disk[b] |= BASE;
            n.cache[b] |= BASE;
            w.promised[b] |= BASE;
            w.hard[b] |= BASE;
        }
    }
}

pub(crate) fn new_generation(w: &mut World, i: usize) {
    let fresh = w.next_generation();
    let n = &mut w.node[i];
    n.past |= if n.generation == 0 { 0 } else { 1 << n.generation };
    n.generation = fresh;
}

pub(crate) fn propose(w: &mut World, i: usize) {
    let next = w.next_epoch();
    let n = &mut w.node[i];
    (n.proposed, n.alone_since, n.joining) = (next, n.epoch, Joining::TargetWrites);
}

pub(crate) fn become_target(w: &mut World, i: usize) {
    let target = w.node[1 - i].clone();
    let fresh = w.next_generation();
    let n = &mut w.node[i];
    n.log |= n.hot | target.hot | target.log;
    if target.generation == 0 || target.log_lost || n.log_lost {
        n.log = 3;
        n.log_lost = false;
    }
    if target.generation == 0 {
        n.past |= 1 << fresh;
    }
    n.joining = Joining::No;
    let t = &mut w.node[1 - i];
    if target.generation == 0 {
        t.generation = fresh;
    }
    (t.members, t.good, t.doing) = (only(i), false, Doing::Target);
    (t.pair, t.lease, t.joining, t.kept) = (0, false, Joining::No, [0; _]);
    w.served_alone[1 - i] = false;
}

pub(crate) fn target_writes(w: &mut World, i: usize) {
    let (epoch, generation) = (w.node[i].proposed, w.node[i].generation);
    let t = &mut w.node[1 - i];
    (t.epoch, t.pair, t.members, t.good) = (epoch, epoch, BOTH, true);
    (t.generation, t.past, t.hot, t.log, t.log_lost) = (generation, 0, 0, 0, false);
    t.doing = Doing::Joined;
}

pub(crate) fn source_writes(w: &mut World, i: usize) {
    let n = &mut w.node[i];
    (n.epoch, n.members, n.joining) = (n.proposed, BOTH, Joining::SourceWrote);
}

pub(crate) fn pair_up(w: &mut World, i: usize) {
    let n = &mut w.node[i];
    (n.pair, n.hot, n.log, n.past) = (n.epoch, 0, 0, 0);
    (n.doing, n.lease) = (Doing::Paired, false);
    (n.joining, n.proposed, n.alone_since) = (Joining::No, NOBODY, NOBODY);
    w.owner = i as u8;
    w.served_alone = [false; 2];
    w.forced = None;
}
