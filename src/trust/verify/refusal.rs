//! Why a chain is not trusted: webpki's errors made into [`TrustError`] with the values that an operator needs.
//!
//! webpki says *what* is wrong and not *with which certificate*; that is found here, among the certificates that were sent.

use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use webpki::Error;

use super::check::{check_strength, check_validity, limit_list, san_names};
use super::{Trust, voucher};
use crate::pki::Certificate;
use crate::trust::verdict::{PeerRole, TrustError, describe_error};

impl Trust {
    pub(super) fn explain_unknown_issuer(&self, end_entity: &Certificate, sent: &[Arc<Certificate>]) -> TrustError {
        // Follow the issuers as far as they were sent.
        let mut last = end_entity;
        for _ in 0..sent.len() {
            let issuer = sent.iter().find(|other| other.subject_der() == last.issuer_der() && ***other != *last);
            let Some(issuer) = issuer else { break };
            last = issuer;
        }
        TrustError::UnknownIssuer {
            sent: sent.len(),
            incomplete: !last.is_self_issued(),
            issuer: last.issuer().to_owned(),
            trust: Arc::clone(self.name()),
            holds: limit_list(self.anchors.iter().map(|anchor| anchor.subject().to_owned())),
            self_signed: end_entity.is_self_issued(),
        }
    }

    pub(super) fn explain_refusal(
        &self,
        error: &Error,
        end_entity: &Arc<Certificate>,
        chain: &[CertificateDer<'static>],
        role: &PeerRole,
        now: Timestamp,
    ) -> TrustError {
        let others = chain[1..].iter().filter_map(|der| Certificate::parse(der.clone()).ok());
        let sent: Vec<_> = std::iter::once(Arc::clone(end_entity)).chain(others).collect();
        let first = |is: &dyn Fn(&Certificate) -> bool| sent.iter().find(|one| is(one)).unwrap_or(end_entity);
        match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
                let whose = first(&|one| !one.validity().contains(now));
                check_validity(whose, now).err().unwrap_or_else(|| other_error(error))
            }
            Error::UnknownIssuer => self.explain_unknown_issuer(end_entity, &sent),
            Error::InvalidSignatureForPublicKey
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::UnsupportedSignatureAlgorithmContext(_) => self.explain_bad_signature(error, &sent),
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                let client = *role == PeerRole::Client;
                let allows = |one: &Certificate| if client { one.usage().client } else { one.usage().server };
                TrustError::WrongUsage {
                    subject: first(&|one| !allows(one)).subject().to_owned(),
                    needed: if client { "clientAuth" } else { "serverAuth" },
                }
            }
            Error::NameConstraintViolation => self.explain_constraints(end_entity, &sent),
            Error::CaUsedAsEndEntity => TrustError::NotAnEndEntity {
                subject: end_entity.subject().to_owned(),
                why: "its basic constraints have CA:TRUE".to_owned(),
            },
            Error::UnsupportedCertVersion => TrustError::NotAnEndEntity {
                subject: end_entity.subject().to_owned(),
                why: "it is not X.509 version 3".to_owned(),
            },
            Error::BadDer
            | Error::BadDerTime
            | Error::ExtensionValueInvalid
            | Error::InvalidCertValidity
            | Error::InvalidSerialNumber
            | Error::MalformedExtensions
            | Error::MalformedDnsIdentifier
            | Error::SignatureAlgorithmMismatch
            | Error::TrailingData(_) => TrustError::Malformed { index: 0, why: describe_error(error) },
            _ => other_error(error),
        }
    }

    /// Names that the constraints of an issuer do not permit, or constraints that are not evaluated here.
    fn explain_constraints(&self, end_entity: &Certificate, sent: &[Arc<Certificate>]) -> TrustError {
        let issues = |one: &Certificate| sent.iter().any(|below| below.issuer_der() == one.subject_der());
        let issuers = || self.anchors.iter().chain(&sent[1..]).filter(|one| issues(one));
        let unevaluated = issuers().find_map(|issuer| {
            let kinds = voucher::unevaluated_constraints(issuer, end_entity);
            (!kinds.is_empty()).then_some((issuer, kinds))
        });
        if let Some((issuer, kinds)) = unevaluated {
            let why = format!(
                "the name constraints of \"{}\" are of a kind that is not evaluated here: {}; RFC 5280 4.2.1.10 then \
                 requires that the certificate is rejected: have the CA certified without constraints of this kind",
                issuer.subject(),
                kinds.join(", ")
            );
            return TrustError::Other { why };
        }
        let constrained = issuers().find(|issuer| voucher::has_constraints(issuer));
        let whose = constrained.map_or_else(|| "an issuer".to_owned(), |issuer| format!("\"{}\"", issuer.subject()));
        let names = san_names(end_entity).join(", ");
        let why = format!(
            "the name constraints of {whose} do not permit a name of \"{}\" ({names}): have it issued with permitted \
             names, or by another CA",
            end_entity.subject()
        );
        TrustError::Other { why }
    }

    /// A signature that does not verify: weak where one of the keys or signatures is, else the issuer has another key.
    fn explain_bad_signature(&self, error: &Error, sent: &[Arc<Certificate>]) -> TrustError {
        let issuers = |one: &Certificate| {
            let issuer = one.issuer_der().to_vec();
            let sent_along = sent.iter().filter(|other| !other.is_self_issued());
            self.anchors.iter().chain(sent_along).find(move |other| other.subject_der() == issuer)
        };
        let weak =
            sent.iter().find_map(|one| check_strength(one).err().or_else(|| check_strength(issuers(one)?).err()));
        if let Some(weak) = weak {
            return weak;
        }
        let unusable = sent.iter().find_map(|one| {
            let issuer = issuers(one)?;
            Some((one, issuer, voucher::explain_unusable_key(issuer)?))
        });
        if let Some((one, issuer, why)) = unusable {
            let (subject, issuer) = (one.subject(), issuer.subject());
            let why = format!("\"{subject}\" was issued by \"{issuer}\", which cannot vouch here: {why}");
            return TrustError::Other { why };
        }
        if matches!(error, Error::UnsupportedSignatureAlgorithmContext(_)) {
            return other_error(error);
        }
        let forged = sent.iter().find(|one| issuers(one).is_some_and(|issuer| !one.is_issued_by(issuer)));
        let whose = forged.unwrap_or(&sent[0]);
        TrustError::BadSignature { subject: whose.subject().to_owned(), issuer: whose.issuer().to_owned() }
    }
}

fn other_error(error: &Error) -> TrustError {
    TrustError::Other { why: format!("path validation (RFC 5280 6) failed: {}", describe_error(error)) }
}
