//! How the detector's state is saved: packed, with its format before it.

/// A first byte of every saved state: its format.
const FORMAT: u8 = 1;
/// Largest saved state that is believed, bytes unpacked.
const SAVED_BYTES_MAX: usize = 4 << 30;

/// Saved state: a format byte, then a zstd frame of JSON.
pub(super) fn pack(body: &[u8]) -> Vec<u8> {
    let mut packed = vec![FORMAT];
    let frame = zstd::bulk::compress(body, 1).expect("memory can be compressed");
    packed.extend(frame);
    packed
}

pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    match packed.split_first() {
        Some((&FORMAT, frame)) => {
            let mut body = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(frame).map_err(|e| e.to_string())?;
            let mut bounded = std::io::Read::take(decoder, SAVED_BYTES_MAX as u64);
            std::io::Read::read_to_end(&mut bounded, &mut body).map_err(|e| e.to_string())?;
            Ok(body)
        }
        Some((format, _)) => Err(format!("format {format} is not known to this collector")),
        None => Err("it is empty".to_owned()),
    }
}
