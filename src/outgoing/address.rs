//! Which addresses are those of the internet, and which lead to this machine, its network or its cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether anybody may have this address, as opposed to those with a meaning only here.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)            // this network, private, loopback
            | (100, 64..=127, _)      // behind a carrier's NAT
            | (169, 254, _)           // link-local, where clouds keep their metadata
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)         // protocols, documentation
            | (192, 88, 99)           // 6to4 relays
            | (198, 18 | 19, _)       // benchmarks
            | (198, 51, 100)          // documentation
            | (203, 0, 113)
            | (224..=255, ..) // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        [0, 0, 0, 0, 0, 0xffff, high, low] => is_public_v4(embedded(high, low)),
        [0x2001, 0..=0x1ff, ..] => false,        // protocols, Teredo among them
        [0x2001, 0xdb8, ..] => false,            // documentation
        [0x3fff, 0..=0xfff, ..] => false,        // documentation
        [first, ..] => first & 0xe000 == 0x2000, // global unicast; no local, multicast or unassigned ones
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for (public, addresses) in [
            (true, "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0"),
            (true, "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0"),
            (true, "198.17.255.255 198.20.0.0 223.255.255.255"),
            (false, "0.0.0.0 0.1.2.3 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255"),
            (false, "169.254.0.0 169.254.169.254 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"),
            (false, "192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1"),
            (false, "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"),
            (true, "2606:4700:4700::1111 2a00:1450::1 2001:4860:4860::8888 2001:200::1"),
            (true, "64:ff9b::1.1.1.1 2002:101:101::1 ::ffff:8.8.8.8"),
            (false, ":: ::1 fe80::1 febf::1 fec0::1 fc00::1 fd00:ec2::254 ff02::1 100::1 2001:db8::1 3fff::1"),
            (false, "::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 ::8.8.8.8"),
            (false, "64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1.1.1.1 2002:7f00:1:: 2002:a9fe:a9fe::1"),
            (false, "2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 ::ffff:0:127.0.0.1 5f00::1 4000::1"),
        ] {
            for address in addresses.split(' ') {
                assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
            }
        }
    }
}
