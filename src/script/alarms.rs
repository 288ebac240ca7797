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

/// How many are read from the store at a time.
const PAGE: usize = 1000;

#[derive(Default)]
pub struct Alarms {
    set: RefCell<HashMap<Box<[u8]>, Alarm>>,
    keeper: Option<Keeper>,
    /// Those whose place in the store is not what it should be yet.
    dirty: RefCell<BTreeSet<Box<[u8]>>>,
    writing: Cell<bool>,
    written: Notify,
}

struct Alarm {
    data: Plain,
    /// Milliseconds since 1970.
    due: i64,
    cancel: Rc<Cancel>,
}

/// Where alarms are kept over a restart.
pub struct Keeper {
    pub store: Arc<Store>,
    pub app: String,
    /// The instance's place among its app's, from 0, and how many there are.
    pub place: u16,
    pub instances: u16,
    pub clock: Clock,
    /// Operations of the store that may wait, and bytes of one page of it.
    pub queue: usize,
    pub page_bytes: usize,
}

/// An alarm that an earlier process has left.
pub struct Left {
    pub key: Box<[u8]>,
    pub data: Plain,
    pub due: i64,
}

impl Alarms {
    pub fn kept(keeper: Keeper) -> Alarms {
        Alarms { keeper: Some(keeper), ..Alarms::default() }
    }

    pub fn count(&self) -> usize {
        self.set.borrow().len()
    }

    pub fn has(&self, key: &[u8]) -> bool {
        self.set.borrow().contains_key(key)
    }

    /// Sets the alarm, in place of one of the same key; whoever waits for it is to look at what is returned. `due` is in
    /// milliseconds since 1970.
    pub fn set(self: &Rc<Alarms>, key: &[u8], data: Plain, due: i64) -> Rc<Cancel> {
        let cancel: Rc<Cancel> = Rc::default();
        let before = self.set.borrow_mut().insert(key.into(), Alarm { data, due, cancel: cancel.clone() });
        if let Some(before) = before {
            before.cancel.cancel();
        }
        self.touched(key);
        cancel
    }

    pub fn cancel(self: &Rc<Alarms>, key: &[u8]) {
        let alarm = self.set.borrow_mut().remove(key);
        if let Some(alarm) = alarm {
            alarm.cancel.cancel();
            self.touched(key);
        }
    }

    /// The data of an alarm that is due; it is one no longer. The store forgets it first: it comes once, whatever happens.
    pub async fn take(self: &Rc<Alarms>, key: &[u8]) -> Option<Plain> {
        let alarm = self.set.borrow_mut().remove(key)?;
        self.dirty.borrow_mut().remove(key);
        if let Some(keeper) = &self.keeper
            && let Err(why) = keeper.store.delete(keeper.asking(), keeper.name(key)).await
        {
            keeper.complain("it comes now, and may come again after a restart", &why);
        }
        Some(alarm.data)
    }

    /// Resolves when everything that has changed is on disk, or has been complained about.
    pub async fn settled(&self) {
        loop {
            let written = self.written.notified();
            if !self.writing.get() {
                return;
            }
            written.await;
        }
    }

    // ── the store ──

    fn touched(self: &Rc<Alarms>, key: &[u8]) {
        if self.keeper.is_none() {
            return;
        }
        self.dirty.borrow_mut().insert(key.into());
        if !self.writing.replace(true) {
            let alarms = self.clone();
            tokio::task::spawn_local(async move { alarms.write().await });
        }
    }

    /// Writes what has changed; of a key that changes faster than the disk, the latest.
    async fn write(&self) {
        loop {
            let keys = self.dirty.take();
            let Some(keeper) = self.keeper.as_ref().filter(|_| !keys.is_empty()) else { break };
            let mut writes = JoinSet::new();
            for key in keys {
                let row = self.set.borrow().get(&key).map(|alarm| row(alarm.due, &alarm.data));
                let (store, asking, name) = (keeper.store.clone(), keeper.asking(), keeper.name(&key));
                writes.spawn_local(async move {
                    match row {
                        Some(row) => store.set(asking, name, encode(&row), None, false).await.map(drop),
                        None => store.delete(asking, name).await.map(drop),
                    }
                });
            }
            while let Some(written) = writes.join_next().await {
                if let Ok(Err(why)) = written {
                    keeper.complain("it goes on in memory, but would not outlive a restart", &why);
                }
            }
        }
        self.writing.set(false);
        self.written.notify_waiters();
    }

    /// What an earlier process has left for this instance.
    pub async fn left(&self) -> Vec<Left> {
        // A store that nobody has made yet is not made for this.
        let Some(keeper) = self.keeper.as_ref().filter(|keeper| keeper.store.is_there()) else { return Vec::new() };
        let mut left = Vec::new();
        let mut after = None;
        loop {
            let range = Range { after: after.take(), limit: PAGE, ..Range::default() };
            let page = match keeper.store.list(keeper.asking(), range, keeper.page_bytes).await {
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
                let (Some(Plain::Number(due)), data) = (row.get("due"), row.get("data")) else { continue };
                // There may be fewer instances than there were.
                if place % keeper.instances == keeper.place {
                    let (key, data) = (key.into(), data.cloned().unwrap_or(Plain::Nil));
                    left.push(Left { key, data, due: *due as i64 });
                    if place != keeper.place {
                        let _ = keeper.store.delete(keeper.asking(), name.into()).await; // it is set again, here
                    }
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
        Asking { app, now: milliseconds(self.clock.unix()), queue: self.queue }
    }

    fn name(&self, key: &[u8]) -> Box<[u8]> {
        [format!("{:05} ", self.place).as_bytes(), key].concat().into()
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
        assert_eq!(alarms.take(b"a").await, Some(Plain::Number(2.0)));
        assert_eq!(alarms.take(b"a").await, None);
    }
}
