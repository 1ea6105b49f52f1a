//! The request to a token endpoint with an assertion, and its response (RFC 6749 4 and 5, RFC 7521 4, RFC 7523 2).

use std::time::Duration;

use serde::Deserialize;

use crate::pki::printable;

/// How much of the endpoint's error code and description is logged, in characters.
const MAX_DESCRIPTION_CHARS: usize = 300;

/// `grant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GrantType {
    /// The assertion is the grant (RFC 7523 2.1).
    #[default]
    JwtBearer,
    /// The assertion authenticates the client, private_key_jwt (RFC 7523 2.2).
    ClientCredentials,
}

/// The token that the endpoint issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResponse {
    /// The token: characters that a Bearer field can have (RFC 6750 2.1).
    pub access_token: String,
    /// How long it is valid, where the response says so.
    pub expires_in: Option<Duration>,
}

/// A response without a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenResponseError {
    /// The endpoint refused the request (RFC 6749 5.2).
    #[error("the token endpoint refused the request with {status} {code}: {description}")]
    Refused {
        /// Its code, printable and cut.
        code: String,
        /// Its description, printable and cut.
        description: String,
        /// Its status.
        status: u16,
    },
    /// The response is malformed.
    #[error("the token endpoint sent an invalid response: {0}")]
    Malformed(&'static str),
    /// The token is of a type that the configuration does not accept (RFC 6749 7.1).
    #[error(
        "the token endpoint sent token_type {said:?}, and token_types accepts {accepted}: add it there if the endpoint \
         documents that its tokens are sent as Bearer"
    )]
    TokenType {
        /// What it sent, printable and cut.
        said: String,
        /// What is accepted.
        accepted: String,
    },
    /// The endpoint redirects.
    #[error("the token endpoint redirects with {0}; redirects are not followed: set token_url to the new address")]
    Redirect(u16),
    /// A status that RFC 6749 does not define for a token endpoint.
    #[error("the token endpoint answered with status {0} and gave no reason")]
    Status(u16),
}

impl TokenResponseError {
    /// A stable code for the log.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "token_refused",
            Self::Malformed(_) | Self::TokenType { .. } => "token_malformed",
            Self::Redirect(_) => "token_redirect",
            Self::Status(_) => "token_status",
        }
    }

    /// Whether the assertion of another key may be accepted (RFC 7521 4.1 and 4.2).
    pub fn is_assertion_rejected(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "invalid_grant" || code == "invalid_client")
    }
}

/// The form of a token request.
pub fn token_request_form(grant: GrantType, assertion: &str, scope: Option<&str>) -> String {
    let mut fields = match grant {
        GrantType::JwtBearer => {
            vec![("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)]
        }
        GrantType::ClientCredentials => vec![
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ],
    };
    fields.extend(scope.map(|scope| ("scope", scope)));
    fields.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect::<Vec<_>>().join("&")
}

/// For a form (RFC 3986 2.1): everything but unreserved characters as %XX.
fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The body of a response that carries a token.
#[derive(Deserialize)]
struct TokenResponseBody {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// The body of an error response.
#[derive(Deserialize)]
struct TokenErrorBody {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

/// Interprets the endpoint's response. `token_types` are those that are sent as Bearer tokens, whatever their case.
///
/// # Errors
/// The response carries no token, or one of another type.
pub fn parse_response(status: u16, body: &[u8], token_types: &[String]) -> Result<TokenResponse, TokenResponseError> {
    match status {
        200 => {}
        300..=399 => return Err(TokenResponseError::Redirect(status)),
        _ => return Err(parse_refusal(status, body)),
    }
    let success: TokenResponseBody = serde_json::from_slice(body)
        .map_err(|_| TokenResponseError::Malformed("it has no access_token and token_type"))?;
    if !token_types.iter().any(|accepted| success.token_type.eq_ignore_ascii_case(accepted)) {
        let said = shorten(&success.token_type);
        return Err(TokenResponseError::TokenType { said, accepted: token_types.join(", ") });
    }
    // Salesforce has an exclamation mark in it, which RFC 6750 2.1 does not have.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=!".contains(&byte);
    if success.access_token.is_empty() || !success.access_token.bytes().all(is_token) {
        return Err(TokenResponseError::Malformed(
            "its access_token contains characters that a Bearer token cannot have",
        ));
    }
    Ok(TokenResponse {
        access_token: success.access_token,
        expires_in: success.expires_in.and_then(|value| parse_seconds(&value)),
    })
}

/// A number, or a number in quotes, as some servers send it.
fn parse_seconds(value: &serde_json::Value) -> Option<Duration> {
    let seconds = match value {
        serde_json::Value::Number(number) => number.as_f64()?,
        serde_json::Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// Text of the endpoint for our log.
fn shorten(text: &str) -> String {
    printable(text).chars().take(MAX_DESCRIPTION_CHARS).collect()
}

fn parse_refusal(status: u16, body: &[u8]) -> TokenResponseError {
    match serde_json::from_slice::<TokenErrorBody>(body) {
        Ok(refusal) if (400..500).contains(&status) => TokenResponseError::Refused {
            code: shorten(&refusal.error),
            description: shorten(refusal.error_description.as_deref().unwrap_or("without a description")),
            status,
        },
        _ => TokenResponseError::Status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_response(status: u16, body: &[u8]) -> Result<TokenResponse, TokenResponseError> {
        parse_response(status, body, &["Bearer".to_owned()])
    }

    #[test]
    fn a_token_type_that_is_not_accepted_is_quoted() {
        let body = br#"{"access_token":"a","token_type":"BearerToken\n"}"#;
        let refused = read_response(200, body).unwrap_err();
        assert_eq!(refused.reason(), "token_malformed");
        assert!(
            refused.to_string().contains(r#"token_type "BearerToken\\u{a}", and token_types accepts Bearer"#),
            "{refused}"
        );
        let apigee =
            parse_response(200, br#"{"access_token":"a","token_type":"BearerToken"}"#, &["bearertoken".to_owned()]);
        assert_eq!(apigee.unwrap().access_token, "a");
    }

    #[test]
    fn an_answer_that_gives_a_token_is_read_with_and_without_its_end() {
        let read = |body: &str| read_response(200, body.as_bytes()).unwrap();
        let granted = read(r#"{"access_token":"00D!a.b-c","token_type":"bearer","expires_in":"3600"}"#);
        assert_eq!((granted.access_token.as_str(), granted.expires_in), ("00D!a.b-c", Some(Duration::from_hours(1))));
        assert_eq!(read(r#"{"access_token":"a","token_type":"Bearer","scope":"api","id":"x"}"#).expires_in, None);
        for (said, meant) in [("60", 60), ("-5", 0), ("59.0", 59)] {
            let granted = read(&format!(r#"{{"access_token":"a","token_type":"Bearer","expires_in":{said}}}"#));
            assert_eq!(granted.expires_in, Some(Duration::from_secs(meant)));
        }
    }

    #[test]
    fn an_answer_that_gives_none_says_why_without_breaking_a_line() {
        let refused = read_response(400, br#"{"error":"invalid_grant","error_description":"user hasn't\napproved"}"#)
            .unwrap_err();
        assert!(refused.is_assertion_rejected());
        assert!(refused.to_string().ends_with("invalid_grant: user hasn't\\u{a}approved"), "{refused}");
        assert!(read_response(401, br#"{"error":"invalid_client"}"#).unwrap_err().is_assertion_rejected());
        for (status, body, reason) in [
            (400, r#"{"error":"invalid_scope"}"#, "token_refused"),
            (400, "<html>", "token_status"),
            (500, r#"{"error":"invalid_grant"}"#, "token_status"),
            (201, "{}", "token_status"),
            (302, "", "token_redirect"),
            (200, "{}", "token_malformed"),
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#, "token_malformed"),
            (200, r#"{"access_token":"","token_type":"Bearer"}"#, "token_malformed"),
            (200, r#"{"access_token":"a\r\nX: y","token_type":"Bearer"}"#, "token_malformed"),
            (200, r#"{"access_token":"a b","token_type":"Bearer"}"#, "token_malformed"),
        ] {
            let answer = read_response(status, body.as_bytes()).unwrap_err();
            assert_eq!((answer.reason(), answer.is_assertion_rejected()), (reason, false), "{status} {body}");
        }
    }

    #[test]
    fn a_form_escapes_what_a_form_must() {
        assert_eq!(
            token_request_form(GrantType::JwtBearer, "a.b-c_d", Some("api refresh&x=y")),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b-c_d&scope=api%20refresh%26x%3Dy"
        );
        let client = token_request_form(GrantType::ClientCredentials, "a", None);
        assert!(
            client.starts_with("grant_type=client_credentials&client_assertion_type=urn") && client.ends_with("=a")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in 100u16..600, body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read_response(status, &body);
        }

        #[test]
        fn a_field_of_a_form_is_read_back(value in "\\PC{0,60}") {
            let escaped = percent_encode(&value);
            proptest::prop_assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            let mut bytes = Vec::new();
            let mut rest = escaped.as_bytes();
            while let [first, more @ ..] = rest {
                if *first == b'%' {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
                    rest = &more[2..];
                } else {
                    bytes.push(*first);
                    rest = more;
                }
            }
            proptest::prop_assert_eq!(String::from_utf8(bytes).unwrap(), value);
        }
    }
}
