//! `Trust` as rustls' two verifiers. CertificateVerify is always checked by rustls' own code, with the key of the very
//! certificate that is presented in that call (never one remembered from elsewhere).
