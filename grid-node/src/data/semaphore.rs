//! Semaphores with leases: who holds permits, since which version, until when; and who waits for some, in which order.
//!
//! A lock is a semaphore of one permit. What a holder has is its own until its lease ends in the partition's own time, and is the
//! next one's then, in the same command, so that nobody who comes just then is before who waits. The version of the partition at
//! which permits are given is their fencing token: it only grows, in whatever partition the name comes to lie
//! (M. Burrows, "The Chubby lock service", OSDI 2006, §2.4, calls it a sequencer).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{self, Acquire, Acquired, Fence, Release, Renew, Reply};

use super::Keys;
use crate::limits::SEMAPHORE_BYTES_MAX;

/// What a claim costs in memory beside its bytes: its places in three trees and a table.
const CLAIM_OVERHEAD_BYTES: usize = 256;

/// What it costs, likewise, where it is told.
const CLAIM_TOLD_BYTES: usize = 64;

/// Permits, who holds them and who waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Semaphore {
    permits: u32,
    /// Of them, those that are held.
    taken: u32,
    /// The partition's version when it was last changed.
    version: u64,
    /// By fencing token.
    holdings: BTreeMap<u64, Claim>,
    /// By the version at which each came.
    queue: BTreeMap<u64, Claim>,
    /// Where each holder's claim is.
    places: HashMap<Bytes, Place>,
    /// When claims end.
    ends: BTreeSet<(u64, Place)>,
    bytes: usize,
}

/// A claim to permits.
#[derive(Clone, Debug, PartialEq)]
struct Claim {
    holder: Bytes,
    take: u32,
    lease_ms: u64,
    /// Of the lease, or of the place in the queue.
    ends_at_ms: u64,
    value: Bytes,
    attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// With this token.
    Holds(u64),
    /// Since this version.
    Waits(u64),
}

impl Claim {
    fn bytes(&self) -> usize {
        self.holder.len() + self.value.len() + CLAIM_OVERHEAD_BYTES
    }
}

impl Semaphore {
    /// The partition's version when somebody last came, went, or said something else.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// True if somebody waits in the queue.
    pub fn has_waiting(&self, holder: &[u8]) -> bool {
        matches!(self.places.get(holder), Some(Place::Waits(_)))
    }

    /// True if nobody holds a permit or waits for one.
    pub fn is_gone(&self) -> bool {
        self.places.is_empty()
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if so many bytes more can be told of it.
    fn has_room_for(&self, bytes: usize) -> bool {
        let told = self.bytes - self.places.len() * (CLAIM_OVERHEAD_BYTES - CLAIM_TOLD_BYTES);
        told + bytes <= SEMAPHORE_BYTES_MAX
    }

    /// When the next claim ends; 0 = there is none.
    fn next_end(&self) -> u64 {
        self.ends.first().map_or(0, |(end, _)| *end)
    }

    fn claim(&mut self, place: Place) -> Option<&mut Claim> {
        match place {
            Place::Holds(token) => self.holdings.get_mut(&token),
            Place::Waits(since) => self.queue.get_mut(&since),
        }
    }

    fn put(&mut self, place: Place, claim: Claim) {
        self.places.insert(claim.holder.clone(), place);
        self.ends.insert((claim.ends_at_ms, place));
        self.bytes += claim.bytes();
        match place {
            Place::Holds(token) => {
                self.taken += claim.take;
                self.holdings.insert(token, claim);
            }
            Place::Waits(since) => {
                self.queue.insert(since, claim);
            }
        }
    }

    fn take(&mut self, place: Place) -> Option<Claim> {
        let claim = match place {
            Place::Holds(token) => self.holdings.remove(&token),
            Place::Waits(since) => self.queue.remove(&since),
        }?;
        if matches!(place, Place::Holds(_)) {
            self.taken -= claim.take;
        }
        self.places.remove(&claim.holder);
        self.ends.remove(&(claim.ends_at_ms, place));
        self.bytes -= claim.bytes();
        Some(claim)
    }

    /// Changes a claim, but not whose it is; its end is looked after.
    fn edit(&mut self, place: Place, change: impl FnOnce(&mut Claim)) {
        let Some(claim) = self.claim(place) else { return };
        let (end, bytes) = (claim.ends_at_ms, claim.bytes());
        change(claim);
        let (end_now, bytes_now) = (claim.ends_at_ms, claim.bytes());
        self.bytes = self.bytes + bytes_now - bytes;
        self.ends.remove(&(end, place));
        self.ends.insert((end_now, place));
    }

    fn move_ends(&mut self, moved: impl Fn(u64) -> u64) {
        let claims = self.holdings.values_mut().chain(self.queue.values_mut());
        claims.for_each(|claim| claim.ends_at_ms = moved(claim.ends_at_ms));
        self.ends =
            std::mem::take(&mut self.ends).into_iter().map(|(end, place)| (moved(end), place)).collect();
    }

    /// Gives free permits to who waits, the first first: one that takes many is not overtaken by those that take few.
    fn give(&mut self, passed_ms: u64, version: &mut u64) {
        while let Some((&since, first)) = self.queue.first_key_value() {
            if self.permits - self.taken < first.take {
                return;
            }
            let Some(claim) = self.take(Place::Waits(since)) else { return };
            self.hold(claim, passed_ms, version);
        }
    }

    fn hold(&mut self, mut claim: Claim, passed_ms: u64, version: &mut u64) -> u64 {
        *version += 1;
        claim.ends_at_ms = passed_ms.saturating_add(claim.lease_ms);
        self.put(Place::Holds(*version), claim);
        *version
    }

    /// Ends what is due.
    fn end_due(&mut self, passed_ms: u64, version: &mut u64) {
        let mut ended = false;
        while let Some(&(end, place)) = self.ends.first()
            && end <= passed_ms
        {
            ended |= self.take(place).is_some();
        }
        if ended {
            *version += 1;
            self.give(passed_ms, version);
        }
    }

    fn acquire(&mut self, acquire: &Acquire, passed_ms: u64, version: &mut u64) -> Reply {
        if self.is_gone() {
            self.permits = acquire.permits;
        }
        let place = self.places.get(&acquire.holder).copied();
        let takes = place.and_then(|place| self.claim(place)).map_or(acquire.take, |claim| claim.take);
        if self.permits != acquire.permits || takes != acquire.take {
            return Reply { outcome: Outcome::Differs.into(), ..Reply::default() };
        }
        // They are kept for long: a slice would keep the whole message in memory.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let ends_at_ms = |lasts_ms: u64| passed_ms.saturating_add(lasts_ms);
        match place {
            Some(place @ Place::Holds(_)) => self.edit(place, |claim| {
                claim.lease_ms = acquire.lease_ms;
                claim.ends_at_ms = ends_at_ms(acquire.lease_ms);
                claim.attempt = claim.attempt.max(acquire.attempt);
            }),
            Some(place @ Place::Waits(_)) if acquire.place_ms > 0 => self.edit(place, |claim| {
                claim.lease_ms = acquire.lease_ms;
                claim.ends_at_ms = ends_at_ms(acquire.place_ms);
                claim.attempt = claim.attempt.max(acquire.attempt);
            }),
            Some(place @ Place::Waits(_)) => {
                *version += 1;
                self.take(place);
                // It may have been in the way of one that takes less.
                self.give(passed_ms, version);
            }
            None => {
                let claim = Claim {
                    holder: own(&acquire.holder),
                    take: acquire.take,
                    lease_ms: acquire.lease_ms,
                    ends_at_ms: ends_at_ms(acquire.place_ms),
                    value: own(&acquire.value),
                    attempt: acquire.attempt,
                };
                let told = CLAIM_TOLD_BYTES + claim.holder.len() + claim.value.len();
                if !self.has_room_for(told) {
                    return crowded();
                }
                if self.queue.is_empty() && self.permits - self.taken >= acquire.take {
                    self.hold(claim, passed_ms, version);
                } else if acquire.place_ms > 0 {
                    *version += 1;
                    self.put(Place::Waits(*version), claim);
                }
            }
        }
        let acquired = self.places.get(&acquire.holder).map(|place| match *place {
            Place::Holds(token) => Acquired { token, ahead: 0 },
            Place::Waits(since) => {
                let ahead = self.queue.range(..since).count();
                Acquired { token: 0, ahead: u32::try_from(ahead).unwrap_or(u32::MAX) }
            }
        });
        Reply { acquired, ..Reply::default() }
    }

    /// The place of a holding, if it is the holder's and lasts.
    fn held_by(&self, holder: &[u8], token: u64) -> Option<Place> {
        let place = self.places.get(holder).copied();
        place.filter(|place| *place == Place::Holds(token))
    }

    fn renew(&mut self, renew: &Renew, passed_ms: u64, version: &mut u64) -> Reply {
        let Some(place) = self.held_by(&renew.holder, renew.token) else {
            return Reply { outcome: Outcome::Fenced.into(), ..Reply::default() };
        };
        let before = self.claim(place).map_or(0, |claim| claim.value.len());
        let more = renew.value.as_ref().map_or(0, |value| value.len().saturating_sub(before));
        if !self.has_room_for(more) {
            return crowded();
        }
        self.edit(place, |claim| {
            claim.lease_ms = renew.lease_ms;
            claim.ends_at_ms = passed_ms.saturating_add(renew.lease_ms);
            if let Some(value) = &renew.value {
                *version += u64::from(claim.value != *value);
                claim.value = Bytes::copy_from_slice(value);
            }
        });
        Reply::default()
    }

    fn release(&mut self, release: &Release, passed_ms: u64, version: &mut u64) -> Reply {
        let place = self.places.get(&release.holder).copied();
        let place = place.filter(|place| release.token == 0 || *place == Place::Holds(release.token));
        let asked_since = |claim: &Claim| release.attempt.is_some_and(|attempt| claim.attempt > attempt);
        let released = place.filter(|place| self.claim(*place).is_some_and(|claim| !asked_since(claim)));
        if let Some(place) = released {
            *version += 1;
            self.take(place);
            self.give(passed_ms, version);
        }
        Reply { integer: released.is_some().into(), ..Reply::default() }
    }

    /// As it is told, and kept in snapshots.
    pub fn state(&self, name: &[u8]) -> grid::Semaphore {
        let claim = |(&token, claim): (&u64, &Claim)| grid::Claim {
            holder: claim.holder.clone(),
            take: claim.take,
            token,
            ends_at_ms: claim.ends_at_ms,
            lease_ms: claim.lease_ms,
            value: claim.value.clone(),
            attempt: claim.attempt,
        };
        grid::Semaphore {
            name: Bytes::copy_from_slice(name),
            permits: self.permits,
            version: self.version,
            holdings: self.holdings.iter().map(claim).collect(),
            queue: self.queue.iter().map(claim).collect(),
        }
    }

    fn restored(state: &grid::Semaphore) -> Self {
        let mut semaphore = Self { permits: state.permits, version: state.version, ..Self::default() };
        let holdings = state.holdings.iter().map(|claim| (Place::Holds(claim.token), claim));
        let queue = state.queue.iter().map(|claim| (Place::Waits(claim.token), claim));
        for (place, claim) in holdings.chain(queue) {
            let claim = Claim {
                holder: Bytes::copy_from_slice(&claim.holder),
                take: claim.take,
                lease_ms: claim.lease_ms,
                ends_at_ms: claim.ends_at_ms,
                value: Bytes::copy_from_slice(&claim.value),
                attempt: claim.attempt,
            };
            semaphore.put(place, claim);
        }
        semaphore
    }
}

fn crowded() -> Reply {
    Reply { outcome: Outcome::Crowded.into(), ..Reply::default() }
}

/// Takes permits, or a place in the queue, or gives one up.
pub fn acquire(keys: &mut Keys, acquire: &Acquire, passed_ms: u64) -> Reply {
    if acquire.permits == 0 || acquire.take == 0 || acquire.take > acquire.permits {
        // Who sent it has let through what it should not have.
        return Reply { outcome: Outcome::Differs.into(), ..Reply::default() };
    }
    keys.edit_semaphore(&acquire.name, passed_ms, |semaphore, version| {
        semaphore.acquire(acquire, passed_ms, version)
    })
}

/// Begins a lease anew.
pub fn renew(keys: &mut Keys, renew: &Renew, passed_ms: u64) -> Reply {
    if keys.semaphore(&renew.name).is_none() {
        return Reply { outcome: Outcome::Fenced.into(), ..Reply::default() };
    }
    keys.edit_semaphore(&renew.name, passed_ms, |semaphore, version| {
        semaphore.renew(renew, passed_ms, version)
    })
}

/// Gives permits back, or a place in the queue: the reply counts.
pub fn release(keys: &mut Keys, release: &Release, passed_ms: u64) -> Reply {
    if keys.semaphore(&release.name).is_none() {
        return Reply::default();
    }
    keys.edit_semaphore(&release.name, passed_ms, |semaphore, version| {
        semaphore.release(release, passed_ms, version)
    })
}

impl Keys {
    /// The semaphore of a name, if somebody holds a permit or waits for one; what is due may not have ended yet.
    pub fn semaphore(&self, name: &[u8]) -> Option<&Semaphore> {
        self.slots.get(self.position(name)?)?.semaphores.get(name).map(|semaphore| &**semaphore)
    }

    /// True if a holding lasts.
    pub fn is_held(&self, fence: &Fence, passed_ms: u64) -> bool {
        let held = self.semaphore(&fence.name).and_then(|semaphore| semaphore.holdings.get(&fence.token));
        held.is_some_and(|claim| claim.ends_at_ms > passed_ms)
    }

    /// Ends what is due of a semaphore.
    pub fn reap_semaphore(&mut self, name: &Bytes, passed_ms: u64) {
        if self.semaphore(name).is_some_and(|semaphore| semaphore.next_end() <= passed_ms) {
            self.edit_semaphore(name, passed_ms, |_, _| {});
        }
    }

    /// Names of semaphores of which something is due, soonest first, at most `count`.
    pub fn due_semaphores(&self, passed_ms: u64, count: usize) -> Vec<Bytes> {
        let due = self.due_semaphores.iter().take_while(|(at_ms, _)| *at_ms <= passed_ms);
        due.take(count).map(|(_, name)| Bytes::copy_from_slice(name)).collect()
    }

    /// Has leases and places last as long as they would have in a partition whose own time is another one.
    pub(super) fn keep_leases(&mut self, passed_ms: u64) {
        let before_ms = std::mem::replace(&mut self.passed_ms, passed_ms);
        let moved = |end: u64| (end + passed_ms).saturating_sub(before_ms);
        for slot in self.slots.iter_mut().filter(|slot| !slot.semaphores.is_empty()) {
            Arc::make_mut(slot).semaphores.values_mut().for_each(|held| Arc::make_mut(held).move_ends(moved));
        }
        let due = std::mem::take(&mut self.due_semaphores).into_iter();
        self.due_semaphores = due.map(|(end, name)| (moved(end), name)).collect();
    }

    /// Puts one of a snapshot back as it was.
    pub fn restore_semaphore(&mut self, state: &grid::Semaphore) {
        let Some(position) = self.position(&state.name) else { return };
        let semaphore = Semaphore::restored(state);
        let bytes = semaphore.bytes() + state.name.len();
        let end = semaphore.next_end();
        let slot = Arc::make_mut(&mut self.slots[position]);
        slot.semaphores.insert(state.name.to_vec().into(), Arc::new(semaphore));
        slot.bytes += bytes;
        self.bytes += bytes;
        self.due_semaphores.insert((end, state.name.to_vec().into()));
    }

    /// Ends what is due of a semaphore and changes it. One that nobody has anything to do with any more is forgotten.
    fn edit_semaphore<R: Default>(
        &mut self,
        name: &Bytes,
        passed_ms: u64,
        change: impl FnOnce(&mut Semaphore, &mut u64) -> R,
    ) -> R {
        // The machine has refused it otherwise.
        let Some(position) = self.position(name) else { return R::default() };
        let slot = Arc::make_mut(&mut self.slots[position]);
        let semaphores = &mut slot.semaphores;
        let cost = |semaphore: &Semaphore| {
            if semaphore.is_gone() { 0 } else { semaphore.bytes() + name.len() }
        };
        if !semaphores.contains_key(&name[..]) {
            semaphores.insert(name.to_vec().into(), Arc::default());
        }
        let Some(semaphore) = semaphores.get_mut(&name[..]).map(Arc::make_mut) else { return R::default() };
        let (bytes, end, version) = (cost(semaphore), semaphore.next_end(), self.version);
        semaphore.end_due(passed_ms, &mut self.version);
        let result = change(semaphore, &mut self.version);
        let (bytes_now, end_now) = (cost(semaphore), semaphore.next_end());
        if self.version != version {
            semaphore.version = self.version;
            self.changed_semaphores.push(name.clone());
        }
        if semaphore.is_gone() {
            semaphores.remove(&name[..]);
        }
        slot.bytes = slot.bytes + bytes_now - bytes;
        self.bytes = self.bytes + bytes_now - bytes;
        if end != end_now {
            self.due_semaphores.remove(&(end, name.to_vec().into()));
            if end_now != 0 {
                self.due_semaphores.insert((end_now, name.to_vec().into()));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
