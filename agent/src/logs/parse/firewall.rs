//! Packets that a firewall refused, as the kernel logs them for a rule that says so (iptables `LOG`,
//! nftables `log`): `[UFW BLOCK] IN= OUT=eth0 SRC=10.0.0.5 DST=10.0.0.7 … PROTO=TCP SPT=5 DPT=9000`.
//!
//! What stands before `IN=` is the administrator's, and tells the verdict, which the kernel does not.
//! The rest are numbers and names of interfaces: no packet can write words here.

use std::net::{IpAddr, SocketAddr};

/// One refused packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
}

/// Longest prefix of a rule: nftables allows 127 characters, and a time since boot may come before.
const PREFIX_BYTES_MAX: usize = 200;
/// Longest line looked at: addresses and ports come early in it.
const LINE_BYTES_MAX: usize = 1024;
/// What prefixes of refusing rules say: ufw, firewalld, csf, Shorewall, and most rules made by hand.
const VERDICTS: [&str; 5] = ["block", "drop", "reject", "deny", "denied"];

/// The packet of a message of the kernel; `None` when it is no message of a rule that refuses.
pub(crate) fn refused(message: &str) -> Option<Packet> {
    let message = &message[..message.floor_char_boundary(LINE_BYTES_MAX)];
    let at = message.find("IN=")?;
    let (prefix, fields) = message.split_at(at);
    if prefix.len() > PREFIX_BYTES_MAX || !fields.contains(" OUT=") || !is_refusal(prefix) {
        return None;
    }
    let (mut source, mut target) = ((None, None), (None, None));
    for field in fields.split_ascii_whitespace() {
        let Some((key, value)) = field.split_once('=') else { continue };
        // Behind an answer of ICMP stands the packet it is about: the first of each counts.
        match key {
            "SRC" if source.0.is_none() => source.0 = value.parse::<IpAddr>().ok(),
            "DST" if target.0.is_none() => target.0 = value.parse::<IpAddr>().ok(),
            "SPT" if source.1.is_none() => source.1 = value.parse::<u16>().ok(),
            "DPT" if target.1.is_none() => target.1 = value.parse::<u16>().ok(),
            "PROTO" if !matches!(value, "TCP" | "UDP" | "6" | "17") => return None,
            _ => {}
        }
    }
    let address = |(ip, port): (Option<IpAddr>, Option<u16>)| {
        Some(SocketAddr::new(ip?.to_canonical(), port?))
    };
    Some(Packet { source: address(source)?, target: address(target)? })
}

/// A word of the prefix, or a part of one between other signs, says that packets are refused.
fn is_refusal(prefix: &str) -> bool {
    let mut words = prefix.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| {
        let word = word.to_ascii_lowercase();
        let stem = word.strip_suffix("ped").or(word.strip_suffix("ed")).unwrap_or(&word);
        VERDICTS.iter().any(|verdict| word == *verdict || stem == *verdict)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, want: Option<(&str, &str)>) {
        let got = refused(message).map(|p| (p.source.to_string(), p.target.to_string()));
        let got = got.as_ref().map(|(source, target)| (source.as_str(), target.as_str()));
        assert_eq!(got, want, "{message}");
    }

    #[test]
    fn each_firewalls_words_are_known() {
        let packet = "IN= OUT=eth0 SRC=10.0.0.5 DST=10.0.0.7 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF \
                      PROTO=TCP SPT=40000 DPT=9000 WINDOW=64240 RES=0x00 SYN URGP=0";
        let is = Some(("10.0.0.5:40000", "10.0.0.7:9000"));
        for prefix in [
            "[UFW BLOCK] ",
            "[12345.678901] [UFW BLOCK] ",
            "kernel: [12345.678901] [UFW BLOCK] ",
            "filter_IN_public_REJECT: ",
            "FINAL_REJECT: ",
            "\"filter_IN_drop_DROP: \"",
            "Firewall: *TCP_OUT Blocked* ",
            "Shorewall:fw-net:DROP:",
            "iptables denied: ",
            "IPTables-Dropped: ",
        ] {
            check(&format!("{prefix}{packet}"), is);
        }
        // An older kernel, IPv6, an answer.
        check(
            "[UFW BLOCK] IN=eth0 OUT= MAC=00:11:22:33:44:55:66:77:88:99:aa:bb:86:dd \
             SRC=2001:0db8:0000:0000:0000:0000:0000:0007 DST=2001:0db8::0005 LEN=60 TC=0 HOPLIMIT=64 \
             FLOWLBL=0 PROTO=TCP SPT=9000 DPT=40000 WINDOW=0 RES=0x00 ACK RST URGP=0",
            Some(("[2001:db8::7]:9000", "[2001:db8::5]:40000")),
        );
    }

    #[test]
    fn what_is_no_refusal_is_none() {
        let packet = "IN=eth0 OUT= SRC=10.0.0.5 DST=10.0.0.7 PROTO=TCP SPT=40000 DPT=9000";
        for prefix in ["[UFW ALLOW] ", "[UFW AUDIT] ", "", "dropbox: ", "accept: ", "unblocker "] {
            check(&format!("{prefix}{packet}"), None);
        }
        for message in [
            "",
            "IN=",
            "[UFW BLOCK] IN=eth0 SRC=10.0.0.5 DST=10.0.0.7 PROTO=TCP SPT=1 DPT=2",
            "[UFW BLOCK] IN=eth0 OUT= SRC=x DST=10.0.0.7 PROTO=TCP SPT=1 DPT=2",
            "[UFW BLOCK] IN=eth0 OUT= SRC=10.0.0.5 DST=10.0.0.7 PROTO=TCP SPT=1 DPT=99999",
            "[UFW BLOCK] IN=eth0 OUT= SRC=10.0.0.5 DST=10.0.0.7 PROTO=ICMP TYPE=3 CODE=1",
            // The packet inside of an answer is not the one that was refused.
            "[UFW BLOCK] IN=eth0 OUT= SRC=10.0.0.5 DST=10.0.0.7 PROTO=ICMP TYPE=3 CODE=1 \
             [SRC=10.0.0.7 DST=10.0.0.5 PROTO=TCP SPT=1 DPT=9000 ]",
        ] {
            check(message, None);
        }
        check(&format!("BLOCK {}{packet}", "x".repeat(PREFIX_BYTES_MAX)), None);
        check(&format!("[UFW BLOCK] {}", "IN= OUT=\u{e4}=".repeat(10_000)), None);
    }
}
