//! The number of a connection, and its text as scripts see it.

/// A connection's number: its instance's number in the upper 16 bits, a count in the rest. Never reused
/// within a process; the text of an id has the process's start in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    const COUNT_BITS: u32 = 48;

    pub fn new(instance: u16, count: u64) -> ConnectionId {
        ConnectionId(u64::from(instance) << Self::COUNT_BITS | count & ((1 << Self::COUNT_BITS) - 1))
    }

    /// The number of the instance that the connection lives in.
    pub fn instance(self) -> u16 {
        u16::try_from(self.0 >> Self::COUNT_BITS).expect("16 bits are left")
    }

    /// The id as scripts see it: `boot` tells this process from all others.
    pub fn text(self, boot: &str) -> String {
        format!("{boot}-{:x}-{:x}", self.instance(), self.0 & ((1 << Self::COUNT_BITS) - 1))
    }

    /// The number behind `text`, if this process gave it.
    pub fn parse(text: &str, boot: &str) -> Option<ConnectionId> {
        let (instance, count) = text.strip_prefix(boot)?.strip_prefix('-')?.split_once('-')?;
        let id = ConnectionId::new(u16::from_str_radix(instance, 16).ok()?, u64::from_str_radix(count, 16).ok()?);
        (id.text(boot) == text).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_only_by_the_process_that_gave_it() {
        let id = ConnectionId::new(7, 0xabc);
        assert_eq!(id.instance(), 7);
        assert_eq!(id.text("k3"), "k3-7-abc");
        assert_eq!(ConnectionId::parse("k3-7-abc", "k3"), Some(id));
        for foreign in ["k4-7-abc", "k3-7-0abc", "k3-7", "", "k3-+7-abc"] {
            assert_eq!(ConnectionId::parse(foreign, "k3"), None, "{foreign}");
        }
    }
}
