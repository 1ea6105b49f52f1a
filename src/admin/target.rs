//! The target of a request taken apart: the decoded segments of its path, and its query's parameters.
//!
//! A segment is a name to look up, never a path: `..` is a name that nothing has.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

/// More segments, or more parameters, are those of no request that this listener answers.
const MOST_PARTS: usize = 32;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestTarget<'a> {
    /// The segments of the path, decoded one by one, so that `%2F` is a character of a name.
    pub(super) segments: Vec<Cow<'a, str>>,
    /// The parameters of the query, decoded, in their order.
    pub(super) parameters: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> RequestTarget<'a> {
    /// `None` where an escape decodes to no UTF-8, or where there are too many parts.
    pub(super) fn parse(uri: &'a Uri) -> Option<Self> {
        let path = uri.path().strip_prefix('/')?;
        let decode = |segment: &'a str| percent_decode_str(segment).decode_utf8().ok();
        let segments: Vec<Cow<'a, str>> = path.split('/').take(MOST_PARTS + 1).map(decode).collect::<Option<_>>()?;
        let query = uri.query().unwrap_or_default().as_bytes();
        let parameters: Vec<_> = form_urlencoded::parse(query).take(MOST_PARTS + 1).collect();
        let is_bounded = segments.len() <= MOST_PARTS && parameters.len() <= MOST_PARTS;
        is_bounded.then_some(Self { segments, parameters })
    }
}

/// A word of a query as one of an enum's names.
pub(super) fn parse_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::from(word)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(target: &str) -> Option<Vec<String>> {
        let uri: Uri = target.parse().unwrap();
        RequestTarget::parse(&uri).map(|target| target.segments.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn each_segment_is_decoded_by_itself() {
        let uri = "/peers/uri:spiffe:%2F%2Facme%2Fx";
        assert_eq!(segments(uri), Some(vec!["peers".to_owned(), "uri:spiffe://acme/x".to_owned()]));
        assert_eq!(segments("/a/../b"), Some(vec!["a".to_owned(), "..".to_owned(), "b".to_owned()]));
        assert_eq!(segments("/"), Some(vec![String::new()]));
        assert_eq!(segments("/%ff"), None);
        assert_eq!(segments(&"/a".repeat(MOST_PARTS + 1)), None);
    }

    #[test]
    fn parameters_are_decoded_and_bounded() {
        let uri: Uri = "/?peer=a%20b+c&failed".parse().unwrap();
        let target = RequestTarget::parse(&uri).unwrap();
        assert_eq!(target.parameters, [("peer".into(), "a b c".into()), ("failed".into(), "".into())]);
        let many: Uri = format!("/?{}", "a=1&".repeat(MOST_PARTS + 1)).parse().unwrap();
        assert_eq!(RequestTarget::parse(&many), None);
    }
}
