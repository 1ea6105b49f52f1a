//! The names of signature algorithms, as the RFCs write them. What they are worth is left to `facts`.

/// The object identifier of RSASSA-PSS, whose parameters name the hash (RFC 4055 3.1).
pub(super) const RSASSA_PSS: &str = "1.2.840.113549.1.1.10";

/// The algorithm of this dotted object identifier by its name; one without a name here stays as it is. `hash`: that of
/// RSASSA-PSS, which its name does not say.
pub(super) fn name_signature(oid: &str, hash: Option<&str>) -> String {
    let name = match oid {
        // RFC 8017 and RFC 3279.
        "1.2.840.113549.1.1.2" => "md2WithRSAEncryption",
        "1.2.840.113549.1.1.4" => "md5WithRSAEncryption",
        "1.2.840.113549.1.1.5" => "sha1WithRSAEncryption",
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.2.840.113549.1.1.13" => "sha512WithRSAEncryption",
        "1.2.840.113549.1.1.14" => "sha224WithRSAEncryption",
        RSASSA_PSS => "id-RSASSA-PSS",
        "1.2.840.10040.4.3" => "id-dsa-with-sha1",
        "1.2.840.10045.4.1" => "ecdsa-with-SHA1",
        // RFC 5758.
        "2.16.840.1.101.3.4.3.1" => "id-dsa-with-sha224",
        "2.16.840.1.101.3.4.3.2" => "id-dsa-with-sha256",
        "1.2.840.10045.4.3.1" => "ecdsa-with-SHA224",
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        // RFC 8410.
        "1.3.101.112" => "id-Ed25519",
        "1.3.101.113" => "id-Ed448",
        // RFC 8692.
        "1.3.6.1.5.5.7.6.30" => "id-RSASSA-PSS-SHAKE128",
        "1.3.6.1.5.5.7.6.31" => "id-RSASSA-PSS-SHAKE256",
        "1.3.6.1.5.5.7.6.32" => "id-ecdsa-with-shake128",
        "1.3.6.1.5.5.7.6.33" => "id-ecdsa-with-shake256",
        // RFC 9881.
        "2.16.840.1.101.3.4.3.17" => "id-ml-dsa-44",
        "2.16.840.1.101.3.4.3.18" => "id-ml-dsa-65",
        "2.16.840.1.101.3.4.3.19" => "id-ml-dsa-87",
        unknown => unknown,
    };
    hash.map_or_else(|| name.to_owned(), |hash| format!("{name} with {}", name_hash(hash)))
}

/// RFC 4055 2.1.
fn name_hash(oid: &str) -> &str {
    match oid {
        "1.3.14.3.2.26" => "SHA-1",
        "2.16.840.1.101.3.4.2.4" => "SHA-224",
        "2.16.840.1.101.3.4.2.1" => "SHA-256",
        "2.16.840.1.101.3.4.2.2" => "SHA-384",
        "2.16.840.1.101.3.4.2.3" => "SHA-512",
        unknown => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_has_its_name_and_one_without_stays_an_identifier() {
        for (oid, hash, name) in [
            ("1.2.840.10045.4.3.2", None, "ecdsa-with-SHA256"),
            ("1.2.840.113549.1.1.11", None, "sha256WithRSAEncryption"),
            ("1.3.101.112", None, "id-Ed25519"),
            (RSASSA_PSS, Some("2.16.840.1.101.3.4.2.1"), "id-RSASSA-PSS with SHA-256"),
            (RSASSA_PSS, Some("1.2.3"), "id-RSASSA-PSS with 1.2.3"),
            ("1.2.3.4", None, "1.2.3.4"),
        ] {
            assert_eq!(name_signature(oid, hash), name);
        }
    }
}
