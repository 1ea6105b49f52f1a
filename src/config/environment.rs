//! `${NAME}` and `${NAME:-default}` in the strings of the configuration.
//!
//! Pure: the caller passes the look-up. Secrets come by file, never from here.

use super::value::ValueError;

/// Looks up an environment variable.
pub(super) type EnvironmentVariables<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Replaces `${NAME}` and `${NAME:-default}`; as in a shell, the default also stands in for an empty variable.
pub(super) fn substitute_variables(text: &str, environment: EnvironmentVariables<'_>) -> Result<String, ValueError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            return Err(format!("{text:?} has a \"${{\" without \"}}\""));
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let legal =
            |(i, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (i > 0 && byte.is_ascii_digit());
        if name.is_empty() || !name.bytes().enumerate().all(legal) {
            return Err(format!(
                "\"${{{inside}}}\" is not a valid variable reference: write ${{NAME}} or ${{NAME:-default}}"
            ));
        }
        match (environment(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
                ));
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_unset_ones_named() {
        let environment = |name: &str| match name {
            "HOST" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let ok = |text| substitute_variables(text, &environment).unwrap();
        assert_eq!(ok("${HOST}.b ${NONE:-x y} ${EMPTY:-z}${EMPTY} $5 {HOST}"), "a.b x y z $5 {HOST}");
        assert!(substitute_variables("${NONE}", &environment).unwrap_err().contains("NONE is not set"));
        for wrong in ["${HOST", "${}", "${1A}", "${A B}", "${:-x}"] {
            assert!(substitute_variables(wrong, &environment).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_of_a_variable_is_not_looked_at_again() {
        let environment = |_: &str| Some("${OTHER}".to_owned());
        assert_eq!(substitute_variables("${A}", &environment).unwrap(), "${OTHER}");
    }
}
