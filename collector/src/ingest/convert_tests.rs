//! Tables and hostile input for the conversion of bodies.

use proptest::prelude::*;
use prost::Message;
use wire::v1::{Change, Exemplar as WireExemplar, LogLine, Loss, Series, ServiceState, Tick};
use wire::{BODY_BYTES_MAX, BODY_UNPACKED_BYTES_MAX, CODEC_ZSTD_BODY, CODEC_ZSTD_DICTIONARY};

use super::unpack::{ENTRIES_MAX, KEPT_BYTES_MAX};
use super::*;

const SERVER: ServerId = ServerId(1);

fn site(name: &str, pool: &str, upstream: &str) -> v1::Site {
    let (name, pool, upstream) = (name.to_owned(), pool.to_owned(), upstream.to_owned());
    v1::Site { name, pool, upstream, ..v1::Site::default() }
}

fn pack(body: &BatchBody) -> Vec<u8> {
    zstd::bulk::compress(&body.encode_to_vec(), 3).unwrap()
}

/// As agents pack small bodies.
fn pack_small(body: &[u8]) -> Vec<u8> {
    let dictionary = zstd::dict::EncoderDictionary::copy(wire::dictionary(), 7);
    let mut packing = zstd::bulk::Compressor::with_prepared_dictionary(&dictionary).unwrap();
    packing.include_dictid(false).unwrap();
    packing.include_checksum(true).unwrap();
    packing.compress(body).unwrap()
}

fn wire_batch(body: &BatchBody) -> v1::Batch {
    v1::Batch { codec: CODEC_ZSTD_BODY, body: pack(body).into(), ..v1::Batch::default() }
}

fn take(wire: v1::Batch, at: UnixMillis) -> Taken {
    batch(&mut Unpacker::default(), SERVER, wire, at)
}

fn row(body: &BatchBody) -> HotRow {
    HotRow {
        id: 1,
        server: SERVER,
        epoch: 1,
        seq: 1,
        at: UnixMillis(0),
        t_min: UnixMillis(0),
        t_max: UnixMillis(0),
        complete_until: UnixMillis(9000),
        codec: CODEC_ZSTD_BODY,
        body: pack(body),
    }
}

/// Stored: `a.example` as site 10 in pool `www`; every other name is not.
fn stored(name: &str) -> Option<SiteRow> {
    let pool = Some("www".to_owned());
    let row = SiteRow {
        site: SiteId(10),
        server: SERVER,
        name: name.into(),
        pool,
        upstream: None,
        owner: None,
        since: None,
    };
    (name == "a.example").then_some(row)
}

fn read(body: &BatchBody) -> Unpacked {
    records(&row(body), &mut stored)
}

#[test]
fn counts_keep_gateway_errors_apart() {
    let c = Counts::default();
    for (status, count, expected, refused) in [
        (&[200, 404, 301][..], &[5, 2, 1][..], Counts { n: 8, ..c }, 0),
        (&[502, 504], &[3, 1], Counts { n: 4, n_502: 3, n_504: 1, ..c }, 0),
        // All 503 are the application's unless 1000 says how many are not.
        (&[503], &[4], Counts { n: 4, n_5xx_app: 4, ..c }, 0),
        (&[503, 1000], &[4, 3], Counts { n: 4, n_503: 3, n_5xx_app: 1, ..c }, 0),
        (&[1000, 503], &[4, 4], Counts { n: 4, n_503: 4, ..c }, 0),
        (&[503, 1000], &[2, 9], Counts { n: 2, n_503: 2, ..c }, 0),
        (&[1000], &[9], c, 0),
        (&[500, 501, 507], &[1, 1, 1], Counts { n: 3, n_5xx_app: 3, ..c }, 0),
        (&[499, 200], &[2, 1], Counts { n: 3, n_499: 2, ..c }, 0),
        (&[200, 1001], &[9, 2], Counts { n: 9, n_retried: 2, ..c }, 0),
        // One status may come twice.
        (&[502, 502], &[1, 1], Counts { n: 2, n_502: 2, ..c }, 0),
        // Of a later release: ignored. Nonsense: refused.
        (&[502, 1002], &[3, 2], Counts { n: 3, n_502: 3, n_crawler: 2, ..c }, 0),
        // Crawlers see no more errors than there were.
        (
            &[503, 1000, 1002],
            &[9, 4, 9],
            Counts { n: 9, n_503: 4, n_5xx_app: 5, n_crawler: 4, ..c },
            0,
        ),
        (&[1003, 9999, 200], &[7, 7, 1], Counts { n: 1, ..c }, 0),
        (&[0, 99, 600, 999, 200], &[1, 1, 1, 1, 1], Counts { n: 1, ..c }, 4),
        (&[502, 200], &[u32::MAX, 5], Counts { n: u32::MAX, n_502: u32::MAX, ..c }, 0),
        (&[503, 500], &[u32::MAX, 5], Counts { n: u32::MAX, n_5xx_app: u32::MAX, ..c }, 0),
    ] {
        assert_eq!(counts(status, count), (expected, refused), "{status:?} {count:?}");
    }
}

/// One entry of each kind.
fn mixed() -> BatchBody {
    let second = |site, second, status| v1::SiteSecond {
        site,
        second,
        status: vec![status],
        count: vec![1],
    };
    BatchBody {
        sites: vec![site("A.Example", "", "")],
        seconds: vec![second(0, 3, 502), second(0, 2, 200)],
        exemplars: vec![WireExemplar {
            at_unix_ms: 3999,
            status: 502,
            signal: Signal::ConnectRefused.into(),
            client_hash: 5,
            upstream: "unix:/run/www.sock".into(),
            message: Some(String::new()),
            ..WireExemplar::default()
        }],
        series: vec![Series { metric: "system.cpu.steal".into(), attribute: String::new() }],
        ticks: vec![Tick { at_unix_ms: 2500, series: vec![0], value: vec![1234] }],
        services: vec![ServiceState {
            unit: "php8.2-fpm.service".into(),
            state: "failed".into(),
            pool: String::new(),
            at_unix_ms: 3100,
            result: "oom-kill".into(),
            ended: "killed".into(),
            ended_status: Some(9),
            n_restarts: Some(5),
            ..ServiceState::default()
        }],
        log_lines: vec![LogLine {
            source: "kernel".into(),
            message: "Out of memory\u{7}".into(),
            at_unix_ms: 3000,
            signal: 99,
            pool: "www".into(),
        }],
        changes: vec![Change { kind: "package".into(), at_unix_ms: 3050, ..Change::default() }],
        ..BatchBody::default()
    }
}

#[test]
fn records_come_in_order_of_time_with_context_first() {
    let unpacked = read(&mixed());
    assert_eq!(unpacked.n_refused, 0);
    let kinds: Vec<&str> = unpacked
        .records
        .iter()
        .map(|record| match record {
            Record::Site { site: SiteId(10), name, pool: Some(pool), .. } => {
                assert_eq!((name.as_str(), pool.as_str()), ("a.example", "www"), "as stored");
                "site"
            }
            Record::Requests { at, counts, .. } if at.0 == 2000 && counts.n == 1 => "ok",
            Record::Requests { at, counts, .. } if at.0 == 3000 && counts.n_502 == 1 => "502",
            Record::Sample { values, .. } => {
                assert_eq!(values[0], ("system.cpu.steal", String::new(), 0.1234));
                "sample"
            }
            Record::Service { pool: None, reason: Some(reason), .. } => {
                assert_eq!(reason, "oom-kill, restarted 5 times");
                "service"
            }
            Record::Change { site: None, .. } => "change",
            Record::Log { message, signal: Some(Signal::Other), .. } => {
                assert_eq!(message, "Out of memory\u{fffd}");
                "log"
            }
            Record::Exemplar(Exemplar {
                message: Some(text),
                upstream: Some(_),
                pool: None,
                ..
            }) => {
                assert_eq!(text, "", "the log was read and has no line");
                "exemplar"
            }
            Record::Complete { at, .. } if at.0 == 9000 => "complete",
            other => panic!("{other:?}"),
        })
        .collect();
    let expected =
        ["site", "ok", "sample", "service", "change", "log", "exemplar", "502", "complete"];
    assert_eq!(kinds, expected);
}

#[test]
fn what_names_nothing_is_left_out_and_counted() {
    let second = |site| v1::SiteSecond { site, second: 1, status: vec![200], count: vec![1] };
    let exemplar = |site, status| WireExemplar { site, status, ..WireExemplar::default() };
    let series = Series { metric: "no.such.metric".into(), attribute: String::new() };
    let steal = Series { metric: "system.cpu.steal".into(), attribute: String::new() };
    let sites = vec![site("a.example", "", ""), site("not-stored", "", ""), site("", "", "")];
    let known = BatchBody { sites, ..BatchBody::default() };
    for (body, n_refused) in [
        (known.clone(), 2),
        (BatchBody { seconds: vec![second(0), second(1), second(2)], ..known.clone() }, 4),
        (BatchBody { seconds: vec![second(3), second(u32::MAX)], ..known.clone() }, 4),
        (BatchBody { exemplars: vec![exemplar(0, 502), exemplar(9, 502)], ..known.clone() }, 3),
        (BatchBody { exemplars: vec![exemplar(0, 200), exemplar(0, 70_000)], ..known.clone() }, 4),
        (
            BatchBody {
                seconds: vec![v1::SiteSecond {
                    status: vec![200, 200],
                    count: vec![1],
                    ..second(0)
                }],
                ..known.clone()
            },
            3,
        ),
        (
            BatchBody {
                series: vec![series, steal],
                // Unknown metric, no such series, out of range, and one value too many.
                ticks: vec![
                    Tick { at_unix_ms: 0, series: vec![0, 7, 1, 1], value: vec![1, 1, 1, 10_001] },
                    Tick { at_unix_ms: 0, series: vec![1], value: vec![1, 1] },
                ],
                ..known
            },
            6,
        ),
    ] {
        let unpacked = read(&body);
        assert_eq!(unpacked.n_refused, n_refused, "{body:?}");
        assert!(unpacked.records.len() <= 4, "{unpacked:?}");
    }
}

#[test]
fn sites_are_named_once_by_what_is_known_of_them() {
    let inventory = v1::Inventory {
        sites: vec![site("a.example", "www", ""), site("b.example", "", "10.0.0.1:80")],
        pools: vec!["www".into()],
    };
    let sites = vec![site("A.example ", "", ""), site("", "", ""), site("b.example", "", "")];
    let body = BatchBody { sites, inventory: Some(inventory), ..BatchBody::default() };
    let mut decoded = decode(&wire_batch(&body), UnixMillis(0)).unwrap();
    decoded.sites.sort();
    let shown: Vec<_> = decoded
        .sites
        .iter()
        .map(|s| (s.name.as_str(), s.pool.as_deref(), s.upstream.as_deref()))
        .collect();
    let expected = [("a.example", Some("www"), None), ("b.example", None, Some("10.0.0.1:80"))];
    assert_eq!(shown, expected);
}

#[test]
fn a_site_belongs_to_whom_the_agent_says_and_other_to_nobody() {
    let owned = |name: &str, owner: &str| v1::Site { owner: owner.into(), ..site(name, "www", "") };
    let long = "o".repeat(NAME_BYTES_MAX + 9);
    for (name, owner, expected) in [
        ("a.example", "alice", Some("alice")),
        ("a.example", " ", None),
        ("a.example", &*long, Some(&long[..NAME_BYTES_MAX])),
        (OTHER, "alice", None),
    ] {
        // A row that does not know takes nothing from one that does.
        let sites = vec![owned(name, ""), owned(name, owner), owned(name, "")];
        let body = BatchBody { sites, ..BatchBody::default() };
        let decoded = decode(&wire_batch(&body), UnixMillis(0)).unwrap();
        let owners: Vec<_> = decoded.sites.iter().map(|site| site.owner.as_deref()).collect();
        assert_eq!(owners, [expected], "{name} {owner}");
    }
}

#[test]
fn a_site_that_moves_is_told_with_its_new_place() {
    for (pool, upstream, expected) in [
        ("", "", (Some("www"), None)),
        ("app", "", (Some("app"), None)),
        ("", "10.0.0.1:80", (None, Some("10.0.0.1:80"))),
    ] {
        let sites = vec![site("a.example", pool, upstream)];
        let unpacked = read(&BatchBody { sites, ..BatchBody::default() });
        let Record::Site { pool, upstream, .. } = &unpacked.records[0] else {
            panic!("{unpacked:?}")
        };
        assert_eq!((pool.as_deref(), upstream.as_deref()), expected);
    }
}

#[test]
fn losses_are_filed_by_name_and_nonsense_is_capped() {
    let loss = Loss { n_lines_rejected: 3, n_bytes_lost: u64::MAX, ..Loss::default() };
    let body = BatchBody { loss: Some(loss), ..BatchBody::default() };
    let decoded = decode(&wire_batch(&body), UnixMillis(0)).unwrap();
    assert_eq!(decoded.losses, [("n_lines_rejected", 3), ("n_bytes_lost", LOSS_STEP_MAX)]);
    let decoded = decode(&wire_batch(&BatchBody::default()), UnixMillis(0)).unwrap();
    assert_eq!(decoded, Decoded::default());
}

#[test]
fn every_line_and_byte_of_a_batch_is_counted_rejected_or_lost() {
    let ledger_of = |n_lines, n_bytes, loss, codec| {
        let batch = wire_batch(&BatchBody { loss, ..BatchBody::default() });
        take(v1::Batch { n_lines, n_bytes, codec, ..batch }, UnixMillis(0)).new.ledger
    };
    let parts = |l: Ledger| {
        [
            [l.n_lines_counted, l.n_lines_rejected, l.n_lines_lost],
            [l.n_bytes_counted, l.n_bytes_rejected, l.n_bytes_lost],
        ]
    };
    let loss = |n_lines_rejected, n_bytes_rejected, n_bytes_lost| {
        Some(Loss { n_lines_rejected, n_bytes_rejected, n_bytes_lost, ..Loss::default() })
    };
    for (n_lines, n_bytes, loss, codec, want) in [
        (10, 1000, None, 1, [[10, 0, 0], [1000, 0, 0]]),
        (10, 1000, loss(2, 300, 100), 1, [[8, 2, 0], [600, 300, 100]]),
        // Unreadable: the counts are lost, whatever it says of them.
        (10, 1000, loss(2, 300, 100), 9, [[0, 0, 10], [0, 0, 1000]]),
        // More than there is.
        (1, 10, loss(5, 8, 7), 1, [[0, 1, 0], [0, 3, 7]]),
        // Of an agent that tells no bytes yet.
        (10, 0, loss(2, 0, 100), 1, [[8, 2, 0], [0, 0, 0]]),
    ] {
        assert_eq!(parts(ledger_of(n_lines, n_bytes, loss, codec)), want, "{loss:?} {codec}");
    }
}

#[test]
fn more_sites_than_any_agent_has_are_refused_and_counted() {
    let sites = (0..SITES_MAX + 5).map(|n| site(&format!("s{n}"), "", "")).collect();
    let decoded =
        decode(&wire_batch(&BatchBody { sites, ..BatchBody::default() }), UnixMillis(0)).unwrap();
    assert_eq!(decoded.sites.len(), SITES_MAX);
    assert_eq!(decoded.losses, [("n_sites_refused", 5)]);
}

#[test]
fn hostile_bodies_are_refused_for_their_reason() {
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let twice = |bytes: Vec<u8>| [bytes.clone(), bytes].concat();
    // Tag 1 (sites), empty: two bytes each.
    let crowd: Vec<u8> = [10, 0].repeat(ENTRIES_MAX + 1);
    let mut inventory = vec![90];
    prost::encoding::encode_varint(crowd.len() as u64, &mut inventory);
    inventory.extend(&crowd);
    // A frame header that asks for a window of 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    for (codec, body, reason) in [
        (0, Vec::new(), "the agent's spool had damaged it"),
        (3, Vec::new(), "codec 3 is not known"),
        (2, Vec::new(), "not one frame"),
        (2, twice(pack_small(b"")), "not one frame"),
        (2, window.to_vec(), "not one frame"),
        (2, zstd::encode_all(&b"hello"[..], 1).unwrap(), "not one frame"),
        (2, pack_small(b"x")[..8].to_vec(), "not one frame"),
        (2, pack_small(&vec![0; BODY_UNPACKED_BYTES_MAX + 1]), "unpacks to more"),
        (2, pack_small(&crowd), "more than 1048576 entries"),
        (2, pack_small(b"\x0a\xff"), "no BatchBody"),
        (1, pack_small(wire::dictionary()), "no zstd frame"),
        (1, Vec::new(), "no zstd frame"),
        (1, vec![0; BODY_BYTES_MAX + 1], "more than 1048576"),
        (1, b"hello".to_vec(), "no zstd frame"),
        (1, window.to_vec(), "no zstd frame"),
        (1, zstd(b"x")[..8].to_vec(), "no zstd frame"),
        (1, zstd(&vec![0; BODY_UNPACKED_BYTES_MAX + 1]), "unpacks to more"),
        (1, zstd(&crowd), "more than 1048576 entries"),
        (1, zstd(&inventory), "more than 1048576 entries"),
        (1, zstd(b"\x0a\xff"), "no BatchBody"),
        (1, zstd(b"\x0b"), "no BatchBody"),
        (1, zstd(&[0x0a, 2, 0x0a, 9]), "no BatchBody"),
    ] {
        let told = unpack(codec, &body).unwrap_err().to_string();
        assert!(told.contains(reason), "{reason} in {told}");
    }
    // Bytes after the frame are not part of it.
    assert!(unpack(1, &twice(zstd(b""))).is_ok());
}

#[test]
fn an_unpacker_is_as_good_as_new_after_any_body() {
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let good = BatchBody { sites: vec![site("a.example", "www", "")], ..BatchBody::default() };
    let large = BatchBody { sites: vec![site(&"a".repeat(3 << 20), "", "")], ..good.clone() };
    let mut unpacker = Unpacker::default();
    // A frame of a stream, which does not say how large it is.
    let stream = zstd::encode_all(good.encode_to_vec().as_slice(), 1).unwrap();
    assert_eq!(unpacker.unpack(CODEC_ZSTD_BODY, &stream).as_ref(), Ok(&good));
    for before in [
        stream,
        pack(&large),
        zstd(&vec![0; BODY_UNPACKED_BYTES_MAX + 1]),
        pack(&good)[..12].to_vec(),
        [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00].to_vec(),
        b"hello".to_vec(),
    ] {
        let first = unpack(CODEC_ZSTD_BODY, &before);
        assert_eq!(unpacker.unpack(CODEC_ZSTD_BODY, &before), first);
        assert_eq!(unpacker.unpack(CODEC_ZSTD_BODY, &pack(&good)).as_ref(), Ok(&good));
        let small = pack_small(&good.encode_to_vec());
        assert_eq!(unpacker.unpack(CODEC_ZSTD_DICTIONARY, &small).as_ref(), Ok(&good));
        assert!(unpacker.bytes.capacity() <= KEPT_BYTES_MAX, "what a large body took is kept");
        assert!(unpacker.context.sizeof() <= KEPT_BYTES_MAX, "what a large body took is kept");
    }
}

/// Of the first release that packed with the dictionary, by the zstd program.
const KEPT: &str = "28b52ffd24842d0100a00a2a1608e8d7030001021a08a413d00faab4de750400464bd0cb6728d41e\
                    3461b034bc02ad1d5f0d";

#[test]
fn a_body_that_was_packed_with_the_dictionary_is_read_for_ever() {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
    let kept: Vec<u8> =
        KEPT.as_bytes().chunks(2).map(|two| digit(&two[0]) << 4 | digit(&two[1])).collect();
    let series = |metric: &str, attribute: &str| Series {
        metric: metric.to_owned(),
        attribute: attribute.to_owned(),
    };
    let expected = BatchBody {
        sites: vec![site("shop.example", "www", "")],
        series: vec![
            series("system.cpu.utilization", ""),
            series("system.cpu.user", ""),
            series("system.disk.io.read", "system.device=vda"),
        ],
        ticks: vec![Tick {
            at_unix_ms: 1_796_000_001_000,
            series: vec![0, 1, 2],
            value: vec![1234, 1000, 123_456_789],
        }],
        ..BatchBody::default()
    };
    assert_eq!(unpack(CODEC_ZSTD_DICTIONARY, &kept), Ok(expected));
}

#[test]
fn bodies_of_any_size_that_are_packed_with_the_dictionary_open() {
    let mut unpacker = Unpacker::default();
    for n in [0, 1, 200, 255, 256, 4000, 8190, 16_380, 16_384, 20_000, 70_000, 1 << 20] {
        let body =
            BatchBody { sites: vec![site(&"ab".repeat(n / 2), "", "")], ..BatchBody::default() };
        let packed = pack_small(&body.encode_to_vec());
        assert_eq!(unpacker.unpack(CODEC_ZSTD_DICTIONARY, &packed), Ok(body), "{n} bytes");
    }
}

#[test]
fn a_flipped_bit_of_a_small_body_never_opens_as_something_else() {
    let sites = (0..30).map(|no| site(&format!("shop{no}.example"), "www", "")).collect();
    let body = BatchBody { sites, ..BatchBody::default() };
    let packed = pack_small(&body.encode_to_vec());
    let mut unpacker = Unpacker::default();
    for codec in [CODEC_ZSTD_DICTIONARY, CODEC_ZSTD_BODY] {
        for bit in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = unpacker.unpack(codec, &damaged) {
                assert_eq!(other, body, "bit {bit} as codec {codec}");
            }
        }
    }
}

#[test]
fn only_bodies_that_are_small_when_unpacked_too_are_read_as_small_ones() {
    let crowd = vec![v1::Site::default(); SMALL.entries + 1];
    let long = vec![site(&"a".repeat(SMALL.unpacked), "", "")];
    let mut noise = 1_u64;
    let noise = (0..SMALL.packed * 2).map(|_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + (noise >> 58) as u8)
    });
    let dense = vec![site(&noise.collect::<String>(), "", "")];
    let usual = vec![site("a.example", "www", ""); 50];
    for (sites, is_small) in [(crowd, false), (long, false), (dense, false), (usual, true)] {
        let wire = wire_batch(&BatchBody { sites, ..BatchBody::default() });
        let mut unpacker = Unpacker::default();
        match small_batch(&mut unpacker, SERVER, wire.clone(), UnixMillis(0)) {
            Ok(taken) => assert!(is_small && taken.opened.is_ok()),
            Err(back) => assert!(!is_small && back == wire, "it is given back as it came"),
        }
        assert!(take(wire, UnixMillis(0)).opened.is_ok(), "each of them can be read");
    }
    let broken = v1::Batch { codec: CODEC_ZSTD_BODY, body: "hello".into(), ..v1::Batch::default() };
    let taken = small_batch(&mut Unpacker::default(), SERVER, broken, UnixMillis(0)).unwrap();
    assert_eq!(taken.new.codec, 0, "one that cannot be read is stored as its reason");
}

#[test]
fn a_body_takes_no_more_memory_than_is_said() {
    let values = || vec![1; 5000];
    let ticks = vec![Tick { series: vec![1; 5000], value: values(), ..Tick::default() }];
    for body in [
        BatchBody { ticks, ..BatchBody::default() },
        BatchBody { exemplars: vec![WireExemplar::default(); 1000], ..BatchBody::default() },
    ] {
        let opened = take(wire_batch(&body), UnixMillis(0)).opened.unwrap();
        let exemplars = opened.body.exemplars.capacity() * size_of::<WireExemplar>();
        let ticks = opened.body.ticks.iter();
        let numbers = ticks.map(|tick| tick.series.capacity() * 4 + tick.value.capacity() * 8);
        assert!(exemplars + numbers.sum::<usize>() <= opened.n_bytes_max, "{}", opened.n_bytes_max);
    }
}

proptest! {
    #[test]
    fn no_bytes_of_a_stranger_panic(body: Vec<u8>, codec in 0..4_u32, packed: bool) {
        let body = match (packed, codec) {
            (false, _) => body,
            (true, CODEC_ZSTD_DICTIONARY) => pack_small(&body),
            (true, _) => zstd::bulk::compress(&body, 1).unwrap(),
        };
        let batch = v1::Batch { codec, body: body.into(), ..v1::Batch::default() };
        let Taken { new, opened, .. } = take(batch, UnixMillis(0));
        let reason = opened.err();
        prop_assert_eq!(reason.is_some(), new.codec == 0);
        let row = HotRow { body: new.body, codec: new.codec, ..row(&BatchBody::default()) };
        records(&row, &mut stored);
    }

    #[test]
    fn no_message_of_a_stranger_panics(
        numbers in proptest::collection::vec(any::<u32>(), 0..20),
        seconds in proptest::collection::vec((any::<u32>(), any::<i64>()), 0..20),
        at: i64, text in ".{0,40}", n: u64,
    ) {
        let second = |(site, second): &(u32, i64)| v1::SiteSecond {
            site: site % 3, second: *second, status: numbers.clone(), count: numbers.clone(),
        };
        let body = BatchBody {
            sites: vec![site(&text, &text, &text), site("a.example", "", "")],
            seconds: seconds.iter().map(second).collect(),
            exemplars: vec![WireExemplar { at_unix_ms: at, status: 502, site: 1, message: Some(text.clone()), ..Default::default() }],
            series: vec![Series { metric: text.clone(), attribute: text.clone() }],
            ticks: vec![Tick { at_unix_ms: at, series: numbers.clone(), value: vec![at, i64::MIN] }],
            log_lines: vec![LogLine { at_unix_ms: at, message: text.clone(), source: text.clone(), ..Default::default() }],
            loss: Some(Loss { n_lines_lost: n, ..Default::default() }),
            ..BatchBody::default()
        };
        let Taken { new, opened, .. } = take(wire_batch(&body), UnixMillis(at));
        let reason = opened.err();
        prop_assert_eq!(reason, None);
        prop_assert!(new.sites.iter().all(|site| !site.name.contains(char::is_control)));
        read(&body);
    }
}

#[test]
fn the_reason_of_a_failed_service_is_told_in_words() {
    let check = |result: &str, ended: &str, status: i32, n_restarts: Option<u32>, want: &str| {
        let state = ServiceState {
            unit: "my-app.service".into(),
            state: "failed".into(),
            result: result.into(),
            ended: ended.into(),
            ended_status: (!ended.is_empty()).then_some(status),
            n_restarts,
            ..ServiceState::default()
        };
        let records = read(&BatchBody { services: vec![state], ..BatchBody::default() }).records;
        let reason = records.iter().find_map(|record| match record {
            Record::Service { reason, .. } => Some(reason.clone().unwrap_or_default()),
            _ => None,
        });
        assert_eq!(reason.as_deref(), Some(want), "{result} {ended} {status}");
    };
    check("signal", "killed", 9, Some(0), "killed by signal 9");
    check("oom-kill", "killed", 9, None, "oom-kill");
    check("exit-code", "exited", 1, Some(1), "exit code 1, restarted once");
    check("core-dump", "dumped", 11, None, "crashed with signal 11");
    check(
        "start-limit-hit",
        "exited",
        203,
        Some(5),
        "start-limit-hit, exit code 203, restarted 5 times",
    );
    check("timeout", "", 0, None, "timeout");
    check("success", "exited", 0, None, "");
    check("", "", 0, None, "");
    check("of\u{7}the future", "of the future", -3, None, "of\u{fffd}the future");
}

#[test]
fn the_times_of_a_batch_are_those_of_its_body_as_far_as_they_can_be_believed() {
    let at = UnixMillis(1_795_176_067_000);
    let second = |ago| v1::SiteSecond { second: at.second() - ago, ..v1::SiteSecond::default() };
    let check = |seconds: Vec<v1::SiteSecond>, want: (i64, i64)| {
        let body = BatchBody { seconds, ..BatchBody::default() };
        let mut wire = wire_batch(&body);
        (wire.t_min_unix_ms, wire.t_max_unix_ms) = (i64::MIN, 5);
        let new = take(wire, at).new;
        assert_eq!((new.t_min.0, new.t_max.0), want);
    };
    let ms = |ago: i64| (at.second() - ago) * 1000;
    check(vec![second(5), second(60)], (ms(60), ms(5)));
    check(vec![second(5), second(40 * 86_400), second(-400), second(i64::MAX / 2)], (ms(5), ms(5)));
    check(vec![second(-400)], (i64::MIN, 5));
    check(Vec::new(), (i64::MIN, 5));
}

#[test]
fn series_without_samples_are_work_too() {
    let body = BatchBody { series: vec![Series::default(); 5000], ..BatchBody::default() };
    let decoded = decode(&wire_batch(&body), UnixMillis(0)).unwrap();
    assert_eq!(decoded.n_entries, 5000);
}
