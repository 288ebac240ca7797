//! The alarms of an instance: they belong to no generation, so a reload neither ends nor repeats them.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use crate::{plain::Plain, script::tasks::Cancel};

#[derive(Default)]
pub struct Alarms {
    set: RefCell<HashMap<Box<[u8]>, Alarm>>,
}

struct Alarm {
    data: Plain,
    cancel: Rc<Cancel>,
}

impl Alarms {
    pub fn count(&self) -> usize {
        self.set.borrow().len()
    }

    pub fn has(&self, key: &[u8]) -> bool {
        self.set.borrow().contains_key(key)
    }

    /// Sets the alarm, in place of one of the same key; whoever waits for it is to look at what is returned.
    pub fn set(&self, key: &[u8], data: Plain) -> Rc<Cancel> {
        let cancel: Rc<Cancel> = Rc::default();
        let before = self.set.borrow_mut().insert(key.into(), Alarm { data, cancel: cancel.clone() });
        if let Some(before) = before {
            before.cancel.cancel();
        }
        cancel
    }

    pub fn cancel(&self, key: &[u8]) {
        let alarm = self.set.borrow_mut().remove(key);
        if let Some(alarm) = alarm {
            alarm.cancel.cancel();
        }
    }

    /// The data of an alarm that is due; it is one no longer.
    pub fn take(&self, key: &[u8]) -> Option<Plain> {
        self.set.borrow_mut().remove(key).map(|alarm| alarm.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_alarm_and_the_one_that_it_replaces_is_cancelled() {
        let alarms = Alarms::default();
        let first = alarms.set(b"a", Plain::Number(1.0));
        let second = alarms.set(b"a", Plain::Number(2.0));
        let other = alarms.set(b"b", Plain::Nil);
        assert_eq!((first.is_cancelled(), second.is_cancelled(), alarms.count()), (true, false, 2));
        alarms.cancel(b"b");
        alarms.cancel(b"never set");
        assert!(other.is_cancelled() && !alarms.has(b"b"));
        assert_eq!(alarms.take(b"a"), Some(Plain::Number(2.0)));
        assert_eq!(alarms.take(b"a"), None);
    }
}
