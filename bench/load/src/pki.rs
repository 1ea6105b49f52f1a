//! Makes what both sides show: a root, an issuer below it, and pairs of ECDSA P-256.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::LoadError;
use crate::options::Options;

const ISSUER: &str = "Bench Issuer";
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// `root.pem`, `issuer.pem`, `issuer.key`, and for `server`, `client` and `stranger` (of another root) the chain (`NAME.pem`),
/// the key (`NAME.key`) and both in one file (`NAME-both.pem`).
pub(crate) fn write_certificates(folder: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(folder)?;
    let begin = now()? - HOUR;
    let authority = |name: &str| -> Result<_, LoadError> { Ok((authority_params(name, begin), new_key()?)) };
    let (root_params, root_key) = authority("Bench Root")?;
    let (stranger_params, stranger_key) = authority("Another Root")?;
    let (issuer_params, issuer_key) = authority(ISSUER)?;
    let root_pem = root_params.self_signed(&root_key)?.pem();
    let root = Issuer::new(root_params, root_key);
    let issuer_pem = issuer_params.signed_by(&issuer_key, &root)?.pem();
    let issuer_key_pem = issuer_key.serialize_pem();
    let issuer = Issuer::new(issuer_params, issuer_key);
    let stranger_root = Issuer::new(stranger_params, stranger_key);
    for (name, issuer, above) in
        [("server", &issuer, issuer_pem.as_str()), ("client", &issuer, &issuer_pem), ("stranger", &stranger_root, "")]
    {
        let key = new_key()?;
        let chain = end_entity_params(name, begin)?.signed_by(&key, issuer)?.pem() + above;
        let key = key.serialize_pem();
        fs::write(folder.join(format!("{name}.pem")), &chain)?;
        fs::write(folder.join(format!("{name}.key")), &key)?;
        fs::write(folder.join(format!("{name}-both.pem")), chain + &key)?;
    }
    fs::write(folder.join("root.pem"), root_pem)?;
    fs::write(folder.join("issuer.key"), issuer_key_pem)?;
    fs::write(folder.join("issuer.pem"), issuer_pem)?;
    Ok(())
}

/// `pair-0000.pem` and so on: pairs of the server, key and chain in one file, each valid a second later than the one before.
pub(crate) fn write_server_pairs(options: &Options) -> Result<(), LoadError> {
    let (signer, out) = (PairSigner::open(&options.folder("certs")?)?, options.folder("out")?);
    fs::create_dir_all(&out)?;
    for number in 0..options.number_or("count", 1)? {
        let begin = now()? - HOUR / 2 + Duration::from_secs(number);
        fs::write(out.join(format!("pair-{number:04}.pem")), signer.sign_pem("server", begin)?)?;
    }
    Ok(())
}

/// `k0000/tls.pem` and `k0000/ca.crt` and so on.
pub(crate) fn write_keyrings(options: &Options) -> Result<(), LoadError> {
    let (certs, out) = (options.folder("certs")?, options.folder("out")?);
    let (signer, root) = (PairSigner::open(&certs)?, fs::read(certs.join("root.pem"))?);
    for number in 0..options.number_or("count", 1)? {
        let folder = out.join(format!("k{number:04}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("tls.pem"), signer.sign_pem("server", now()? - HOUR)?)?;
        fs::write(folder.join("ca.crt"), &root)?;
    }
    Ok(())
}

/// Signs pairs by the issuer of a folder that [`write_certificates`] has written.
pub(crate) struct PairSigner {
    issuer: Issuer<'static, KeyPair>,
    issuer_pem: String,
    issuer_der: CertificateDer<'static>,
}

impl PairSigner {
    /// For this folder.
    pub(crate) fn open(certs: &Path) -> Result<Self, LoadError> {
        use rustls_pki_types::pem::PemObject;
        let key = KeyPair::from_pem(&fs::read_to_string(certs.join("issuer.key"))?)?;
        let issuer_pem = fs::read_to_string(certs.join("issuer.pem"))?;
        let issuer_der = CertificateDer::from_pem_slice(issuer_pem.as_bytes())?;
        Ok(Self { issuer: Issuer::new(authority_params(ISSUER, now()?), key), issuer_pem, issuer_der })
    }

    /// A pair of that name: key and chain in one text.
    fn sign_pem(&self, name: &str, begin: Duration) -> Result<String, LoadError> {
        let key = new_key()?;
        let certificate = end_entity_params(name, begin)?.signed_by(&key, &self.issuer)?;
        Ok(key.serialize_pem() + &certificate.pem() + &self.issuer_pem)
    }

    /// A client with a name of its own.
    pub(crate) fn sign_client(
        &self,
        number: u64,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), LoadError> {
        let key = new_key()?;
        let params = end_entity_params(&format!("client-{number}"), now()? - HOUR)?;
        let chain = vec![params.signed_by(&key, &self.issuer)?.der().clone(), self.issuer_der.clone()];
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

fn new_key() -> Result<KeyPair, LoadError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// Since 1970.
fn now() -> Result<Duration, LoadError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn base_params(name: &str, begin: Duration) -> CertificateParams {
    let (mut params, epoch) = (CertificateParams::default(), rcgen::date_time_ymd(1970, 1, 1));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + begin;
    params.not_after = epoch + begin + YEAR;
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority_params(name: &str, begin: Duration) -> CertificateParams {
    let mut params = base_params(name, begin);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn end_entity_params(name: &str, begin: Duration) -> Result<CertificateParams, LoadError> {
    let mut params = base_params(name, begin);
    let uri = SanType::URI(Ia5String::try_from(format!("spiffe://bench.test/{name}"))?);
    params.subject_alt_names = match name {
        "server" => vec![
            SanType::DnsName(Ia5String::try_from("localhost")?),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
            uri,
        ],
        _ => vec![uri],
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}
