//! The OpenAPI document, which is also what dispatches: a path or a parameter that it does not describe is not answered.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use super::super::target::RequestTarget;

/// The document as it is served.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

static OPERATIONS: LazyLock<Vec<ApiOperation>> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.filter_map(|(path, item)| ApiOperation::read(path, &item["get"])).collect()
});

/// What is answered under one path.
struct ApiOperation {
    id: String,
    segments: Vec<PathSegment>,
    parameters: BTreeMap<String, ParameterRule>,
}

enum PathSegment {
    Fixed(String),
    Named(String),
}

/// Which values a parameter may have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ParameterRule {
    Text,
    Number(RangeInclusive<u64>),
    Flag,
    Time,
    Word(Vec<String>),
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ArgumentValue {
    Text(String),
    Number(u64),
    Flag(bool),
    Time(Timestamp),
}

/// What a request asks for: parameters of its path and of its query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ApiArguments(BTreeMap<String, ArgumentValue>);

/// Why a request is not one that the document describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiRefusal {
    /// No such path.
    NoPath,
    /// A parameter is wrong: one sentence that names it.
    Parameter(String),
}

impl ApiArguments {
    /// A text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            ArgumentValue::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            ArgumentValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A time.
    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        match self.0.get(name)? {
            ArgumentValue::Time(time) => Some(*time),
            _ => None,
        }
    }

    /// Whether a flag is set.
    pub(super) fn has_flag(&self, name: &str) -> bool {
        self.0.get(name) == Some(&ArgumentValue::Flag(true))
    }
}

/// Which operation of the document a request asks for, and with what.
pub(super) fn find_operation(target: &RequestTarget<'_>) -> Result<(&'static str, ApiArguments), ApiRefusal> {
    let matching = OPERATIONS.iter().find_map(|operation| Some((operation, operation.match_path(target)?)));
    let (operation, named) = matching.ok_or(ApiRefusal::NoPath)?;
    let mut arguments = ApiArguments::default();
    let asked = target.parameters.iter().map(|(name, value)| (&**name, &**value));
    for (name, value) in named.into_iter().chain(asked) {
        let Some((name, rule)) = operation.parameters.get_key_value(name) else {
            let known: Vec<&str> = operation.parameters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ApiRefusal::Parameter(format!("a parameter is unknown here; known parameters: {known}")));
        };
        let value =
            rule.read(value).ok_or_else(|| ApiRefusal::Parameter(format!("{name} has to be {}", rule.describe())))?;
        if arguments.0.insert(name.clone(), value).is_some() {
            return Err(ApiRefusal::Parameter(format!("{name} occurs more than once")));
        }
    }
    Ok((&operation.id, arguments))
}

impl ApiOperation {
    fn read(path: &str, operation: &Value) -> Option<Self> {
        let segment = |text: &str| match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => PathSegment::Named(name.to_owned()),
            None => PathSegment::Fixed(text.to_owned()),
        };
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let rule = |parameter: &Value| {
            Some((parameter["name"].as_str()?.to_owned(), ParameterRule::read_schema(&parameter["schema"])))
        };
        Some(Self {
            id: operation["operationId"].as_str()?.to_owned(),
            segments: path.strip_prefix('/')?.split('/').map(segment).collect(),
            parameters: parameters.filter_map(rule).collect(),
        })
    }

    /// The named segments, where the path is this one.
    fn match_path<'a>(&'a self, target: &'a RequestTarget<'_>) -> Option<Vec<(&'a str, &'a str)>> {
        if self.segments.len() != target.segments.len() {
            return None;
        }
        let mut named = Vec::new();
        for (wanted, found) in self.segments.iter().zip(&target.segments) {
            match wanted {
                PathSegment::Fixed(text) if text == found => {}
                PathSegment::Named(name) if !found.is_empty() => named.push((name.as_str(), &**found)),
                PathSegment::Fixed(_) | PathSegment::Named(_) => return None,
            }
        }
        Some(named)
    }
}

impl ParameterRule {
    fn read_schema(schema: &Value) -> Self {
        let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let words: Vec<String> = words.map(str::to_owned).collect();
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("integer"), _) => {
                let bound = |name: &str, usual: u64| schema[name].as_u64().unwrap_or(usual);
                Self::Number(bound("minimum", 0)..=bound("maximum", u64::MAX))
            }
            (Some("boolean"), _) => Self::Flag,
            (_, Some("date-time")) => Self::Time,
            _ if words.is_empty() => Self::Text,
            _ => Self::Word(words),
        }
    }

    fn read(&self, text: &str) -> Option<ArgumentValue> {
        match self {
            Self::Text => (!text.contains('\0')).then(|| ArgumentValue::Text(text.to_owned())),
            Self::Number(bounds) => {
                let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|number| is_digits && bounds.contains(number))?;
                Some(ArgumentValue::Number(number))
            }
            Self::Flag => text.parse().ok().map(ArgumentValue::Flag),
            Self::Time => text.parse().ok().map(ArgumentValue::Time),
            Self::Word(words) => words.iter().find(|word| *word == text).map(|word| ArgumentValue::Text(word.clone())),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text => "a text without NUL".to_owned(),
            Self::Number(bounds) if *bounds.end() == u64::MAX => "a whole number".to_owned(),
            Self::Number(bounds) => format!("a whole number from {} to {}", bounds.start(), bounds.end()),
            Self::Flag => "true or false".to_owned(),
            Self::Time => "a time such as 2026-11-29T09:00:00Z (RFC 3339)".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The operations by their identifiers, for the test that each is answered.
#[cfg(test)]
pub(super) fn operation_ids() -> Vec<&'static str> {
    OPERATIONS.iter().map(|operation| operation.id.as_str()).collect()
}
