//! Plain data as the bytes that lie on disk: a version, a sum over what follows, and the value. Equal data has equal bytes.

use crate::plain::{Plain, PlainTable};

/// The first byte. Another one is of a later moonwire.
const VERSION: u8 = 1;

/// The version and the sum.
const HEAD: usize = 5;

/// How deep tables may be, as in scripts.
const DEPTH_MAX: usize = 64;

/// Whole numbers up to here are exact as floats, and short as bytes.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

const NIL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const WHOLE: u8 = 3;
const FLOAT: u8 = 4;
const STRING: u8 = 5;
const BUFFER: u8 = 6;
const JSON_NULL: u8 = 7;
const TABLE: u8 = 8;
const JSON_ARRAY: u8 = 9;

pub fn encode(value: &Plain) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0, 0, 0];
    put(value, &mut out);
    let sum = sum(&out[HEAD..]);
    out[1..HEAD].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The value; the error says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Plain, &'static str> {
    match bytes {
        [VERSION, a, b, c, d, rest @ ..] => {
            if u32::from_le_bytes([*a, *b, *c, *d]) != sum(rest) {
                return Err("its bytes have changed on disk");
            }
            let mut reader = Reader { rest };
            let value = reader.value(0)?;
            if reader.rest.is_empty() { Ok(value) } else { Err("it has more bytes than it should") }
        }
        [VERSION, ..] | [] => Err("it is too short"),
        _ => Err("it has a form that this version of moonwire does not know"),
    }
}

/// FNV-1a: one changed byte always changes it.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn put(value: &Plain, out: &mut Vec<u8>) {
    match value {
        Plain::Nil => out.push(NIL),
        Plain::Bool(flag) => out.push(if *flag { TRUE } else { FALSE }),
        Plain::Number(number) => put_number(*number, out),
        Plain::String(bytes) => put_bytes(STRING, bytes, out),
        Plain::Buffer(bytes) => put_bytes(BUFFER, bytes, out),
        Plain::JsonNull => out.push(JSON_NULL),
        Plain::Table(table) => {
            out.push(if table.json_array { JSON_ARRAY } else { TABLE });
            put_count(table.array.len() as u64, out);
            put_count(table.pairs.len() as u64, out);
            for element in &table.array {
                put(element, out);
            }
            // In the order of their keys' bytes: Lua's own order differs from one VM to the next.
            let keys = table.pairs.iter().map(|(key, value)| {
                let mut bytes = Vec::new();
                put(key, &mut bytes);
                (bytes, value)
            });
            let mut pairs: Vec<_> = keys.collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, value) in pairs {
                out.extend_from_slice(&key);
                put(value, out);
            }
        }
    }
}

fn put_number(number: f64, out: &mut Vec<u8>) {
    let whole = number as i64;
    if number.abs() <= WHOLE_MAX && whole as f64 == number && !(number == 0.0 && number.is_sign_negative()) {
        out.push(WHOLE);
        // The sign is the lowest bit, so that small numbers are short either way.
        put_count(((whole << 1) ^ (whole >> 63)) as u64, out);
    } else {
        out.push(FLOAT);
        let number = if number.is_nan() { f64::NAN } else { number };
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_bytes(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    put_count(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Seven bits in each byte, the lowest first.
fn put_count(mut count: u64, out: &mut Vec<u8>) {
    while count >= 0x80 {
        out.push(count as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
}

struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: &str = "it ends too early";

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn count(&mut self) -> Result<u64, &'static str> {
        let mut count = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            count |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(count);
            }
        }
        Err("it has a number that is too long")
    }

    /// A count of things of which each has at least one byte: no more than there are bytes.
    fn length(&mut self) -> Result<usize, &'static str> {
        let count = self.count()?;
        usize::try_from(count).ok().filter(|count| *count <= self.rest.len()).ok_or(SHORT)
    }

    fn bytes(&mut self) -> Result<Box<[u8]>, &'static str> {
        let length = self.length()?;
        Ok(self.take(length)?.into())
    }

    fn value(&mut self, depth: usize) -> Result<Plain, &'static str> {
        Ok(match self.byte()? {
            NIL => Plain::Nil,
            FALSE => Plain::Bool(false),
            TRUE => Plain::Bool(true),
            WHOLE => {
                let bits = self.count()?;
                Plain::Number(((bits >> 1) as i64 ^ -((bits & 1) as i64)) as f64)
            }
            FLOAT => {
                let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
                Plain::Number(f64::from_le_bytes(bytes))
            }
            STRING => Plain::String(self.bytes()?),
            BUFFER => Plain::Buffer(self.bytes()?),
            JSON_NULL => Plain::JsonNull,
            kind @ (TABLE | JSON_ARRAY) => self.table(depth + 1, kind == JSON_ARRAY)?,
            _ => return Err("it has a value of an unknown kind"),
        })
    }

    fn table(&mut self, depth: usize, json_array: bool) -> Result<Plain, &'static str> {
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply");
        }
        let (elements, pairs) = (self.length()?, self.length()?);
        // Grown as they come: a wrong count must not take memory.
        let mut table = PlainTable { json_array, ..PlainTable::default() };
        for _ in 0..elements {
            table.array.push(self.value(depth)?);
        }
        for _ in 0..pairs {
            let key = match self.value(depth)? {
                Plain::Number(number) if number.is_nan() => return Err("it has a key that cannot be one"),
                key @ (Plain::Bool(_) | Plain::Number(_) | Plain::String(_)) => key,
                _ => return Err("it has a key that cannot be one"),
            };
            table.pairs.push((key, self.value(depth)?));
        }
        Ok(Plain::Table(Box::new(table)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> impl Strategy<Value = Plain> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let leaf = prop_oneof![
            Just(Plain::Nil),
            any::<bool>().prop_map(Plain::Bool),
            any::<i64>().prop_map(|n| Plain::Number(n as f64)),
            prop::num::f64::ANY.prop_filter("NaN equals nothing", |n| !n.is_nan()).prop_map(Plain::Number),
            Just(Plain::JsonNull),
            bytes().prop_map(Plain::string),
            bytes().prop_map(|b| Plain::Buffer(b.into())),
        ];
        leaf.prop_recursive(5, 60, 8, |element| {
            let key = prop_oneof![
                "[a-z]{0,6}".prop_map(Plain::string),
                any::<i32>().prop_map(|n| Plain::Number(f64::from(n))),
                any::<bool>().prop_map(Plain::Bool),
            ];
            let pairs = prop::collection::vec((key, element.clone()), 0..6);
            (prop::collection::vec(element, 0..6), pairs, any::<bool>()).prop_map(|(array, mut pairs, json_array)| {
                let order = |key: &Plain| {
                    let mut bytes = Vec::new();
                    put(key, &mut bytes);
                    bytes
                };
                pairs.sort_by_key(|(key, _)| order(key));
                pairs.dedup_by(|a, b| a.0 == b.0);
                Plain::Table(Box::new(PlainTable { array, pairs, json_array }))
            })
        })
    }

    proptest! {
        #[test]
        fn a_value_comes_back_as_it_was(value in plain()) {
            let bytes = encode(&value);
            prop_assert_eq!(decode(&bytes), Ok(value));
        }

        #[test]
        fn one_changed_byte_is_an_error(value in plain(), at in any::<prop::sample::Index>(), with in 1_u8..) {
            let mut bytes = encode(&value);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            // The same behind a head that is right, so that what follows is looked at.
            let mut whole = vec![VERSION, 0, 0, 0, 0];
            whole.extend_from_slice(&bytes);
            let sum = sum(&bytes);
            whole[1..HEAD].copy_from_slice(&sum.to_le_bytes());
            let _ = decode(&whole);
        }
    }

    #[test]
    fn the_order_of_pairs_does_not_matter() {
        let pair = |name: &str| (Plain::string(name), Plain::Bool(true));
        let table = |pairs| Plain::Table(Box::new(PlainTable { pairs, ..PlainTable::default() }));
        assert_eq!(encode(&table(vec![pair("a"), pair("b")])), encode(&table(vec![pair("b"), pair("a")])));
    }

    #[test]
    fn tables_may_be_64_deep_and_no_deeper() {
        let nested = |depth| {
            (1..depth).fold(Plain::Table(Box::default()), |inner, _| {
                Plain::Table(Box::new(PlainTable { array: vec![inner], ..PlainTable::default() }))
            })
        };
        assert!(decode(&encode(&nested(64))).is_ok());
        assert!(decode(&encode(&nested(65))).is_err());
    }

    #[test]
    fn small_values_are_short() {
        let check = |value: Plain, length| assert_eq!(encode(&value).len() - HEAD, length, "{value:?}");
        check(Plain::Number(1.0), 2);
        check(Plain::Number(-64.0), 2);
        check(Plain::Number(1.5), 9);
        check(Plain::Number(-0.0), 9);
        check(Plain::string("abc"), 5);
    }
}
