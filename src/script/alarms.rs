//! The alarms of an instance: they belong to no generation, so a reload neither ends nor repeats them, and they are kept
//! in the store, so a restart does not either.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};

use crate::{
    clock::Clock,
    plain::{Plain, PlainTable},
    script::tasks::Cancel,
    store::{Asking, Range, Store, Why, encode},
};

/// How many are read from the store, or written, at a time: 64 KiB each at most.
const PAGE: usize = 64;

#[derive(Default)]
pub struct Alarms {
    set: RefCell<HashMap<Id, Alarm>>,
    /// Those of `set` that an instance of an earlier start has left, which is no more.
    adopted: RefCell<BTreeSet<Id>>,
    keeper: Option<Keeper>,
    /// Those whose place in the store is not what it should be yet.
    dirty: RefCell<BTreeSet<Id>>,
    writing: Cell<bool>,
    /// Those that are due, and are being taken off the disk.
    firing: Cell<usize>,
    settled: Notify,
}

/// The place of the instance that has set an alarm, and its key. Each instance has keys of its own.
pub type Id = (u16, Box<[u8]>);

struct Alarm {
    data: Plain,
    /// Milliseconds since 1970.
    due: i64,
    cancel: Rc<Cancel>,
    /// It is due: it belongs into the store no longer.
    firing: bool,
}

/// Where alarms are kept over a restart.
pub struct Keeper {
    pub store: Arc<Store>,
    pub app: String,
    /// The instance's place among its app's, from 0, and how many there are.
    pub place: u16,
    pub instances: u16,
    pub clock: Clock,
}

/// An alarm that an earlier process has left.
pub struct Left {
    pub id: Id,
    pub data: Plain,
    pub due: i64,
}

impl Alarms {
    pub fn kept(keeper: Keeper) -> Alarms {
        Alarms { keeper: Some(keeper), ..Alarms::default() }
    }

    fn place(&self) -> u16 {
        self.keeper.as_ref().map_or(0, |keeper| keeper.place)
    }

    /// The id of this instance's own alarm of a key.
    pub fn id(&self, key: &[u8]) -> Id {
        (self.place(), key.into())
    }

    pub fn count(&self) -> usize {
        self.set.borrow().len()
    }

    pub fn has(&self, key: &[u8]) -> bool {
        self.set.borrow().contains_key(&self.id(key))
    }

    /// Sets the alarm, in place of those of the same key; whoever waits for it is to look at what is returned. `due` is in
    /// milliseconds since 1970.
    pub fn set(self: &Rc<Alarms>, key: &[u8], data: Plain, due: i64) -> Rc<Cancel> {
        self.cancel(key);
        let cancel = self.put(self.id(key), data, due);
        self.touched(self.id(key));
        cancel
    }

    /// Takes over an alarm of an earlier process, which may be one of an instance that is no more.
    pub fn restore(&self, left: &Left) -> Rc<Cancel> {
        if left.id.0 != self.place() {
            self.adopted.borrow_mut().insert(left.id.clone());
        }
        self.put(left.id.clone(), left.data.clone(), left.due)
    }

    fn put(&self, id: Id, data: Plain, due: i64) -> Rc<Cancel> {
        let cancel: Rc<Cancel> = Rc::default();
        self.set.borrow_mut().insert(id, Alarm { data, due, cancel: cancel.clone(), firing: false });
        cancel
    }

    pub fn cancel(self: &Rc<Alarms>, key: &[u8]) {
        let mut ids: Vec<Id> = self.adopted.borrow().iter().filter(|(_, of)| **of == *key).cloned().collect();
        ids.push(self.id(key));
        for id in ids {
            let alarm = self.set.borrow_mut().remove(&id);
            self.adopted.borrow_mut().remove(&id);
            if let Some(alarm) = alarm {
                alarm.cancel.cancel();
                self.touched(id);
            }
        }
    }

    /// The data of an alarm that is due; it is one no longer. The store forgets it first: it comes once, whatever happens.
    /// None if it has been cancelled or replaced meanwhile.
    pub async fn take(self: &Rc<Alarms>, id: &Id) -> Option<Plain> {
        let cancel = {
            let mut set = self.set.borrow_mut();
            let alarm = set.get_mut(id)?;
            alarm.firing = true;
            alarm.cancel.clone()
        };
        if let Some(keeper) = &self.keeper {
            self.firing.set(self.firing.get() + 1);
            let deleted = keeper.store.delete(keeper.asking(), keeper.name(id)).await;
            self.firing.set(self.firing.get() - 1);
            self.settled.notify_waiters();
            if let Err(why) = deleted {
                keeper.complain("it comes now, and may come again after a restart", &why);
            }
        }
        if cancel.is_cancelled() {
            return None;
        }
        self.adopted.borrow_mut().remove(id);
        self.set.borrow_mut().remove(id).map(|alarm| alarm.data)
    }

    /// Resolves when everything that has changed is on disk, or has been complained about, and nothing is being taken.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if !self.writing.get() && self.firing.get() == 0 {
                return;
            }
            settled.await;
        }
    }

    // ── the store ──

    fn touched(self: &Rc<Alarms>, id: Id) {
        if self.keeper.is_none() {
            return;
        }
        self.dirty.borrow_mut().insert(id);
        if !self.writing.replace(true) {
            let alarms = self.clone();
            tokio::task::spawn_local(async move { alarms.write().await });
        }
    }

    /// Writes what has changed, a few at a time; of a key that changes faster than the disk, the latest.
    async fn write(self: Rc<Alarms>) {
        loop {
            let mut writes = JoinSet::new();
            for _ in 0..PAGE {
                let Some(id) = self.dirty.borrow_mut().pop_first() else { break };
                let alarms = self.clone();
                writes.spawn_local(async move { alarms.write_one(&id).await });
            }
            if writes.is_empty() {
                break;
            }
            while writes.join_next().await.is_some() {}
        }
        self.writing.set(false);
        self.settled.notify_waiters();
    }

    async fn write_one(&self, id: &Id) {
        let Some(keeper) = &self.keeper else { return };
        // Looked up in the turn in which it is sent: what comes later is sent later.
        let row = self.set.borrow().get(id).filter(|alarm| !alarm.firing).map(|alarm| row(alarm.due, &alarm.data));
        let written = match row {
            Some(row) => keeper.store.set(keeper.asking(), keeper.name(id), encode(&row), None, false).await.map(drop),
            None => keeper.store.delete(keeper.asking(), keeper.name(id)).await.map(drop),
        };
        if let Err(why) = written {
            keeper.complain("it goes on in memory, but would not outlive a restart", &why);
        }
    }

    /// What an earlier process has left for this instance: of its place, and of places that are no more.
    pub async fn left(&self) -> Vec<Left> {
        // A store that nobody has made yet is not made for this.
        let Some(keeper) = self.keeper.as_ref().filter(|keeper| keeper.store.is_there()) else { return Vec::new() };
        let mut left = Vec::new();
        let mut after = None;
        loop {
            let range = Range { after: after.take(), limit: PAGE, ..Range::default() };
            let page = match keeper.store.rows(keeper.asking(), range).await {
                Ok(page) => page,
                Err(why) => {
                    keeper.complain("those that an earlier start has set are not there", &why);
                    return left;
                }
            };
            let is_last = page.len() < PAGE;
            after = page.last().map(|(name, _)| name.clone());
            for (name, row) in page {
                let Some((place, key)) = keeper.read_name(&name) else { continue };
                if place % keeper.instances != keeper.place {
                    continue;
                }
                match row.as_ref().map(|row| (row.get("due"), row.get("data"))) {
                    Ok((Some(Plain::Number(due)), data)) => left.push(Left {
                        id: (place, key.into()),
                        data: data.cloned().unwrap_or(Plain::Nil),
                        due: *due as i64,
                    }),
                    Ok(_) => {}
                    // It stays as it is, for whoever can mend it.
                    Err(why) => keeper.complain("one that an earlier start has set is not there", why),
                }
            }
            if is_last {
                return left;
            }
        }
    }

    /// How long from now an alarm is due.
    pub fn until(&self, due: i64) -> Duration {
        let now = self.keeper.as_ref().map_or(0, |keeper| milliseconds(keeper.clock.unix()));
        Duration::from_millis(u64::try_from(due.saturating_sub(now)).unwrap_or(0))
    }
}

impl Keeper {
    fn asking(&self) -> Asking {
        // No app can have such a name: it is the relay's own part of the store.
        let app = format!("alarms of {}", self.app).into();
        // What waits is bounded here: no more are under way at one time than are written, and than are due.
        Asking { app, now: milliseconds(self.clock.unix()), queue: usize::MAX }
    }

    fn name(&self, (place, key): &Id) -> Box<[u8]> {
        [format!("{place:05} ").as_bytes(), key].concat().into()
    }

    fn read_name<'a>(&self, name: &'a [u8]) -> Option<(u16, &'a [u8])> {
        let (place, key) = name.split_at_checked(6)?;
        let place = std::str::from_utf8(place).ok()?.trim_end().parse().ok()?;
        Some((place, key))
    }

    fn complain(&self, what: &str, why: &Why) {
        tracing::error!(app = self.app, instance = self.place + 1, "an alarm cannot be stored ({why}): {what}");
    }
}

fn row(due: i64, data: &Plain) -> Plain {
    let pairs = vec![(Plain::string("due"), Plain::Number(due as f64)), (Plain::string("data"), data.clone())];
    Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() }))
}

/// Since 1970.
pub fn milliseconds(unix: Duration) -> i64 {
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_one_alarm_and_the_one_that_it_replaces_is_cancelled() {
        let alarms = Rc::new(Alarms::default());
        let first = alarms.set(b"a", Plain::Number(1.0), 1);
        let second = alarms.set(b"a", Plain::Number(2.0), 2);
        let other = alarms.set(b"b", Plain::Nil, 3);
        assert_eq!((first.is_cancelled(), second.is_cancelled(), alarms.count()), (true, false, 2));
        alarms.cancel(b"b");
        alarms.cancel(b"never set");
        assert!(other.is_cancelled() && !alarms.has(b"b"));
        let id = alarms.id(b"a");
        assert_eq!(alarms.take(&id).await, Some(Plain::Number(2.0)));
        assert_eq!(alarms.take(&id).await, None);
    }
}
