//! What can happen next in a history, one function for each kind of event.

use crate::change::{
    become_target, clear_disk, end_session, go_alone, lose, new_generation, pair_up, propose, set_register,
    source_writes, target_writes,
};
use crate::history::{BOTH, Doing, Joining, Mode, NOBODY, Replica, Setting, World, only};

/// A name for a trace, and the world after it.
pub(crate) type Step = (String, World);

struct Steps<'a> {
    world: &'a World,
    setting: &'a Setting,
    out: Vec<Step>,
}

/// All that can happen next.
pub(crate) fn steps(world: &World, setting: &Setting) -> Vec<Step> {
    let mut all = Steps { world, setting, out: Vec::new() };
    all.link();
    for i in 0..2 {
        all.faults(i);
        all.losses(i);
        all.pair_writes(i);
        all.alone(i);
        all.disk(i);
        all.takeover(i);
        all.restart(i);
        all.yields(i);
        all.stop(i);
        all.resync(i);
        all.join(i);
        all.person(i);
    }
    all.out
}

impl Steps<'_> {
    fn blocks(&self) -> std::ops::Range<usize> {
        0..self.setting.blocks
    }

    fn add(&mut self, label: String, change: impl FnOnce(&mut World)) {
        let mut next = self.world.clone();
        change(&mut next);
        next.give_up();
        self.out.push((label, next.canonical()));
    }

    fn registered(&self) -> bool {
        self.setting.mode == Mode::Register
    }

    fn link(&mut self) {
        if self.world.link && self.world.left.cuts > 0 {
            self.add("link cut".into(), |w| {
                w.link = false;
                w.left.cuts -= 1;
                end_session(w);
            });
        }
        if !self.world.link {
            self.add("link heals".into(), |w| w.link = true);
        }
        if let Some((who, expect, new)) = self.world.swap {
            self.add("arbiter handles the swap to both".into(), |w| {
                w.swap = None;
                let done = w.register.is_some_and(|r| (r.0, r.1) == (expect, only(who.into())));
                if done {
                    set_register(w, (new, BOTH, who));
                }
                if w.node[usize::from(who)].joining == Joining::Swapping {
                    if done {
                        pair_up(w, who.into());
                    } else {
                        lose(&mut w.node[usize::from(who)]);
                    }
                }
            });
        }
    }

    fn faults(&mut self, i: usize) {
        if self.world.node[i].up() && self.world.left.kills > 0 {
            let healthy = self.world.healthy();
            self.add(format!("kill {i}"), |w| {
                w.left.kills -= 1;
                if !healthy {
                    w.promised = w.hard;
                }
                let n = &mut w.node[i];
                n.doing = Doing::Down;
                n.cache = [0; _];
                n.kept = [0; _];
                n.pair = 0;
                n.lease = false;
                (n.joining, n.proposed, n.alone_since) = (Joining::No, NOBODY, NOBODY);
                end_session(w);
            });
        }
        if !self.world.node[i].up() {
            self.add(format!("restart {i}"), |w| {
                let n = &mut w.node[i];
                n.doing = Doing::Starting;
                n.cache = n.disk;
            });
        }
    }

    /// Disks that are lost, swapped, or damaged while the node is down.
    fn losses(&mut self, i: usize) {
        let n = &self.world.node[i];
        if n.up() || self.world.left.losses == 0 || n.foreign || n.generation == 0 {
            return;
        }
        self.add(format!("the disk of {i} is replaced by an empty one"), |w| {
            clear_disk(w, i);
            let n = &mut w.node[i];
            (n.epoch, n.members, n.good, n.generation) = (0, BOTH, true, 0);
        });
        self.add(format!("the disk of {i} is replaced by a foreign one"), |w| {
            clear_disk(w, i);
            let g = w.next_generation();
            let n = &mut w.node[i];
            (n.generation, n.foreign) = (g, true);
        });
        self.add(format!("the log of {i} is lost"), |w| {
            w.left.losses -= 1;
            let n = &mut w.node[i];
            (n.hot, n.log, n.log_lost) = (0, 0, true);
        });
    }

    fn pair_writes(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        if n.doing != Doing::Paired || usize::from(w.owner) != i {
            return;
        }
        let connected = w.link && on.doing == Doing::Paired && on.pair == n.pair;
        for b in self.blocks().filter(|_| connected) {
            if let Some(write) = w.next_write(b).filter(|_| n.lease && n.kept[b] == 0 && w.left.writes > 0) {
                self.add(format!("{i} orders a write of block {b}"), |w| {
                    w.left.writes -= 1;
                    w.node[0].hot |= 1 << b;
                    w.node[1].hot |= 1 << b;
                    w.node[i].kept[b] |= write;
                });
            }
            let kept = n.kept[b];
            if kept & !on.cache[b] != 0 {
                self.add(format!("{o} applies block {b}"), |w| w.node[o].cache[b] |= kept);
            } else if kept != 0 && n.lease {
                self.add(format!("{i} acknowledges block {b}"), |w| {
                    w.promised[b] |= kept;
                    w.node[i].cache[b] |= kept;
                    w.node[i].kept[b] = 0;
                });
            }
            let equal = n.cache[b] == on.cache[b] && n.stable(b) && on.stable(b) && kept == 0;
            if equal && n.hot >> b & 1 == 1 {
                self.add(format!("{i} cools block {b}"), |w| w.node[i].hot &= !(1 << b));
            } else if equal && on.hot >> b & 1 == 1 {
                self.add(format!("{o} cools block {b}"), |w| w.node[o].hot &= !(1 << b));
            }
            if equal && w.promised[b] & !w.hard[b] != 0 {
                self.add(format!("the host flushes block {b}"), |w| w.hard[b] = w.promised[b]);
            }
        }
    }

    fn alone(&mut self, i: usize) {
        let (w, n) = (self.world, &self.world.node[i]);
        let alone = n.doing == Doing::Alone && n.joining == Joining::No;
        for b in self.blocks() {
            if let Some(write) = w.next_write(b).filter(|_| alone && w.left.writes > 0) {
                self.add(format!("{i} alone writes block {b}"), |w| {
                    w.left.writes -= 1;
                    w.node[i].log |= 1 << b;
                    w.node[i].cache[b] |= write;
                });
            }
            let seen = n.cache[b];
            if seen & !(w.promised[b] & w.hard[b]) != 0 && alone && n.stable(b) {
                self.add(format!("{i} alone answers block {b}"), |w| {
                    w.promised[b] |= seen;
                    w.hard[b] |= seen;
                });
            }
            if n.doing == Doing::Paired && n.lease && n.kept[b] == 0 && seen & !w.promised[b] != 0 {
                self.add(format!("{i} reads block {b}"), |w| w.promised[b] |= seen);
            }
        }
    }

    fn disk(&mut self, i: usize) {
        let n = &self.world.node[i];
        for b in self.blocks().filter(|_| n.up() && n.doing != Doing::Starting) {
            if !n.stable(b) {
                self.add(format!("{i} makes block {b} stable"), |w| w.node[i].disk[b] = w.node[i].cache[b]);
            }
        }
    }

    fn takeover(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        let in_pair = matches!(n.doing, Doing::Paired | Doing::Joined) && n.members == BOTH;
        let partner_there = w.link && matches!(on.doing, Doing::Paired | Doing::Alone | Doing::Joined);
        if in_pair && !(partner_there && (on.pair == n.pair || on.joining != Joining::No)) {
            if self.registered() {
                self.add(format!("{i} asks the arbiter"), |w| {
                    w.node[i].doing = Doing::Asking;
                    w.node[i].lease = false;
                });
            } else if self.setting.mode == Mode::Preferred && i == 0 {
                self.add(format!("{i} is preferred and goes on"), |w| w.node[i].doing = Doing::Won);
            } else {
                self.add(format!("{i} stops serving"), |w| lose(&mut w.node[i]));
            }
        }
        if n.doing == Doing::Asking {
            self.add(format!("arbiter handles the question of {i}"), |w| {
                if w.register.is_some_and(|r| (r.0, r.1) == (w.node[i].epoch, BOTH)) {
                    set_register(w, (w.next_epoch(), only(i), i as u8));
                }
                if w.register.is_some_and(|r| r.1 == only(i)) {
                    w.node[i].doing = Doing::Won;
                } else {
                    lose(&mut w.node[i]);
                }
            });
        }
        if n.doing == Doing::Won {
            self.add(format!("{i} writes that it is alone"), |w| go_alone(w, i));
        }
    }

    /// What a node does of itself when it has restarted or has lost.
    fn restart(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let n = &w.node[i];
        let idle = matches!(n.doing, Doing::Starting | Doing::Lost);
        if !idle || !n.good || n.foreign {
            return;
        }
        if !self.registered() {
            if n.doing == Doing::Starting && n.members == only(i) {
                self.add(format!("{i} was last and goes on"), |w| w.node[i].doing = Doing::Alone);
            }
            return;
        }
        let next = w.next_epoch();
        let partner_new = w.link && w.node[o].up() && w.node[o].generation == 0;
        match w.register {
            None if i == 0 && n.generation == 0 && w.node[1].generation == 0 => {
                self.add(format!("{i} forms the partnership"), |w| {
                    set_register(w, (next, only(i), i as u8));
                    w.node[i].doing = Doing::Won;
                });
            }
            // It died while it formed the partnership, or its disk was replaced; only the partner can tell.
            Some((_, members, _)) if members == only(i) && n.generation == 0 && !partner_new => {}
            Some((_, members, _)) if members == only(i) && n.generation == 0 => {
                self.add(format!("{i} forms the partnership again"), |w| {
                    set_register(w, (next, only(i), i as u8));
                    w.node[i].doing = Doing::Won;
                });
            }
            Some((epoch, members, by)) if members == only(i) => {
                if n.members == only(i) && n.epoch == epoch {
                    self.add(format!("{i} was last and goes on"), |w| w.node[i].doing = Doing::Alone);
                } else if n.doing == Doing::Starting
                    && usize::from(by) == i
                    && n.members == BOTH
                    && n.epoch < epoch
                {
                    self.add(format!("{i} gives an unused grant back"), |w| {
                        set_register(w, (next, only(o), i as u8));
                    });
                } else {
                    self.add(format!("{i} is named and raises the epoch"), |w| {
                        set_register(w, (next, only(i), i as u8));
                        w.node[i].doing = Doing::Won;
                    });
                }
            }
            Some((epoch, BOTH, _)) if n.members == only(i) && n.epoch > epoch => {
                self.add(format!("{i} brings the register up to date"), |w| {
                    set_register(w, (w.node[i].epoch, only(i), i as u8));
                });
            }
            Some((epoch, BOTH, _))
                if n.members == BOTH
                    && (n.epoch == epoch || n.generation == 0)
                    && n.doing == Doing::Starting =>
            {
                self.add(format!("{i} takes itself out of the register"), |w| {
                    set_register(w, (next, only(o), i as u8));
                });
            }
            _ => {}
        }
    }

    /// Without an arbiter, equal rights are settled between the two.
    fn yields(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        if self.registered() || !w.link || n.foreign || on.foreign {
            return;
        }
        let named = n.members == BOTH && on.members == only(i) && n.good && on.settled();
        if named && matches!(n.doing, Doing::Starting | Doing::Lost) && n.generation != 0 {
            self.add(format!("{i} goes on, because {o} has it in writing"), |w| w.node[i].doing = Doing::Won);
        }
        let even = n.members == BOTH && on.members == BOTH && n.epoch == on.epoch && n.good && on.good;
        if !even {
            return;
        }
        let remembers = |n: &Replica| n.pair == n.epoch && n.pair != 0;
        let idle = |n: &Replica| matches!(n.doing, Doing::Starting | Doing::Lost);
        let data = n.generation == 0 || on.generation != 0;
        let partner_idle = idle(on) || remembers(on) && on.doing == Doing::Paired;
        let yields = match (remembers(n), remembers(on)) {
            (false, true) => true,
            (true, false) => false,
            _ => i == 1,
        };
        if idle(n) && partner_idle && yields && data {
            for good in [false, true] {
                self.add(format!("{i} yields (still calls its half good: {good})"), |w| {
                    (w.node[i].members, w.node[i].good) = (only(o), good);
                    lose(&mut w.node[i]);
                    w.node[o].doing = Doing::Won;
                });
            }
        }
    }

    fn stop(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let calm = |n: &Replica| n.lease && (0..2).all(|b| n.stable(b) && n.kept[b] == 0);
        let equal = w.node[0].cache == w.node[1].cache;
        if w.left.stops == 0 || !w.healthy() || !calm(&w.node[0]) || !calm(&w.node[1]) || !equal {
            return;
        }
        for raised in [false, true] {
            self.add(format!("{i} hands over and stops (epoch raised: {raised})"), |w| {
                w.left.stops -= 1;
                let next = w.next_epoch();
                let n = &mut w.node[i];
                n.members = only(o);
                if raised {
                    n.epoch = next;
                }
                n.doing = Doing::Down;
                n.cache = [0; _];
                (n.pair, n.lease) = (0, false);
                w.node[o].doing = Doing::Won;
            });
        }
    }

    fn resync(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        if n.doing == Doing::Alone
            && n.members == only(i)
            && w.register.is_some_and(|r| r.1 == BOTH && n.epoch > r.0)
        {
            self.add(format!("{i} brings the register up to date"), |w| {
                set_register(w, (w.node[i].epoch, only(i), i as u8));
            });
        }
        if n.doing != Doing::Alone || !w.link || n.foreign || on.foreign {
            return;
        }
        let returning = matches!(on.doing, Doing::Lost | Doing::Starting | Doing::Joined);
        let named = !self.registered() || w.register.is_none_or(|r| r.1 != only(o) || r.0 < n.epoch);
        if returning && n.joining == Joining::No && n.members == only(i) && on.members != only(o) && named {
            self.add(format!("{o} becomes the target of {i}"), |w| become_target(w, i));
        }
        if on.doing != Doing::Target {
            return;
        }
        for b in self.blocks().filter(|b| n.log >> b & 1 == 1) {
            if on.cache[b] != n.cache[b] {
                self.add(format!("{i} copies block {b}"), |w| w.node[o].cache[b] = w.node[i].cache[b]);
            } else if n.stable(b) && on.stable(b) {
                self.add(format!("{o} confirms block {b}"), |w| w.node[i].log &= !(1 << b));
            }
        }
    }

    fn join(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        if n.doing == Doing::Alone {
            self.join_source(i);
        }
        if n.doing == Doing::Joined && w.link && on.doing == Doing::Paired && on.pair == n.pair {
            self.add(format!("{i} hears \"go\""), |w| {
                w.node[i].doing = Doing::Paired;
                w.node[0].lease = true;
                w.node[1].lease = true;
            });
        }
        if n.doing == Doing::Paired && !n.lease && w.healthy() {
            self.add(format!("the lease of {i} is renewed"), |w| w.node[i].lease = true);
        }
    }

    fn join_source(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        // Without an arbiter the one that would stop writes first.
        let source_first = !self.registered() && (self.setting.mode == Mode::StopBoth || i == 1);
        let connected = w.link && matches!(on.doing, Doing::Target | Doing::Joined);
        match n.joining {
            Joining::No => {
                let calm = (0..2).all(|b| n.stable(b) && on.stable(b));
                if w.link && on.doing == Doing::Target && n.log == 0 && calm && n.members == only(i) {
                    if !source_first {
                        self.add(format!("{i} proposes to join"), |w| {
                            propose(w, i);
                            target_writes(w, i);
                        });
                    }
                    if !self.registered() {
                        self.add(format!("{i} proposes to join and gives up its right"), |w| {
                            propose(w, i);
                            source_writes(w, i);
                        });
                    }
                }
            }
            Joining::TargetWrites if connected => {
                self.add(format!("{i} writes that both are members"), |w| source_writes(w, i));
            }
            Joining::SourceWrote if connected && on.doing == Doing::Target => {
                self.add(format!("{o} writes that both are members"), |w| target_writes(w, i));
            }
            Joining::SourceWrote if connected && self.registered() => {
                self.add(format!("{i} sends the swap"), |w| {
                    w.node[i].joining = Joining::Swapping;
                    w.swap = w.register.map(|r| (i as u8, r.0, w.node[i].proposed));
                });
            }
            Joining::SourceWrote if connected => {
                self.add(format!("{i} goes on as a pair"), |w| pair_up(w, i));
            }
            Joining::TargetWrites | Joining::SourceWrote => self.join_broken(i, source_first),
            Joining::Swapping => {}
        }
    }

    fn join_broken(&mut self, i: usize, source_first: bool) {
        let written = self.world.node[i].joining == Joining::SourceWrote;
        for renewed in [false, true] {
            self.add(format!("the join of {i} is broken (new generation: {renewed})"), |w| {
                let registered = w.register.is_some();
                let n = &mut w.node[i];
                let epoch = n.alone_since;
                (n.joining, n.proposed, n.alone_since) = (Joining::No, NOBODY, NOBODY);
                match (written, source_first) {
                    (false, _) => {}
                    (true, _) if registered => {
                        (n.epoch, n.members) = (epoch, only(i));
                        if renewed {
                            new_generation(w, i);
                        }
                    }
                    (true, true) => lose(n),
                    (true, false) => n.doing = Doing::Won,
                }
            });
        }
    }

    /// What only a person can do.
    fn person(&mut self, i: usize) {
        let (w, o) = (self.world, 1 - i);
        let (n, on) = (&w.node[i], &w.node[o]);
        let idle = matches!(n.doing, Doing::Starting | Doing::Lost);
        let apart = !w.link || !on.up();
        if idle && apart && w.left.forces > 0 && n.generation != 0 && !n.foreign {
            self.add(format!("a person forces {i}"), |w| {
                w.left.forces -= 1;
                w.lost = false;
                w.forced = Some(i as u8);
                if w.register.is_some() {
                    set_register(w, (w.next_epoch(), only(i), i as u8));
                }
                w.node[i].doing = Doing::Won;
            });
        }
        let claims = |n: &Replica, i: usize| n.members == only(i) && n.good && n.settled() && !n.foreign;
        if w.link && n.doing == Doing::Alone && claims(n, i) && claims(on, o) && w.left.forces == 0 {
            self.add(format!("a person keeps {i}"), |w| {
                if w.register.is_some() {
                    set_register(w, (w.next_epoch(), only(i), i as u8));
                }
                go_alone(w, i);
                w.forced = Some(i as u8);
                w.served_alone[o] = false;
                (w.node[o].members, w.node[o].good) = (only(i), false);
                lose(&mut w.node[o]);
            });
        }
    }
}
