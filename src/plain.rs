//! Plain data: what may leave one Lua VM for another, a worker for another, or memory for a disk.

/// A value with no reference to any VM. Tables keep their pairs in the order in which they were read.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    Nil,
    Bool(bool),
    Number(f64),
    String(Box<[u8]>),
    Buffer(Box<[u8]>),
    /// `relay.json.null`.
    JsonNull,
    Table(Box<PlainTable>),
}

/// `array` holds the values of the keys 1..n, `pairs` every other key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlainTable {
    pub array: Vec<Plain>,
    pub pairs: Vec<(Plain, Plain)>,
    /// The mark of `relay.json.array`: an empty table of this kind is encoded as `[]`.
    pub json_array: bool,
}

impl Plain {
    /// The string `s` as plain data.
    pub fn string(s: impl AsRef<[u8]>) -> Plain {
        Plain::String(s.as_ref().into())
    }

    /// The value under a string key, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Plain> {
        let Plain::Table(table) = self else { return None };
        table.pairs.iter().find_map(|(k, v)| match k {
            Plain::String(k) if **k == *key.as_bytes() => Some(v),
            _ => None,
        })
    }

    /// The bytes, if this is a string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Plain::String(s) => Some(s),
            _ => None,
        }
    }

    /// The text, if this is a string in UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// Roughly how much memory it takes.
    pub fn bytes(&self) -> usize {
        const VALUE: usize = 16;
        VALUE
            + match self {
                Plain::String(bytes) | Plain::Buffer(bytes) => bytes.len(),
                Plain::Table(table) => {
                    table.array.iter().map(Plain::bytes).sum::<usize>()
                        + table.pairs.iter().map(|(key, value)| key.bytes() + value.bytes()).sum::<usize>()
                }
                _ => 0,
            }
    }
}
