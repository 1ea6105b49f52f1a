//! PEM as we write it: certificates, keys and requests, without a copy of what may be a secret.

/// Writes one block with lines of 64 characters (RFC 7468 2).
pub(super) fn write_pem(label: &str, der: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for at in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
                out.push(if at > three.len() { '=' } else { char::from(digit) });
            }
        }
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}

/// How long [`write_pem`]'s text is, for making room.
pub(super) fn pem_len(label: &str, der: &[u8]) -> usize {
    let base64 = der.len().div_ceil(3) * 4;
    base64 + base64.div_ceil(64) + 2 * label.len() + "-----BEGIN -----\n-----END -----\n".len()
}
