use proptest::prelude::*;

use super::*;

const JSON_STYLE: LineStyle = LineStyle { format: LogFormat::Json, colour: false };
const TEXT_STYLE: LineStyle = LineStyle { format: LogFormat::Text, colour: false };

fn time() -> Timestamp {
    "2026-11-25T09:00:00.123456Z".parse().unwrap()
}

fn finish(line: LogLine) -> String {
    String::from_utf8(line.finish()).unwrap()
}

#[test]
fn json_has_time_level_target_and_typed_fields() {
    let mut line = LogLine::new(JSON_STYLE, time(), Level::INFO, "folder");
    line.message("read").text("file", "a b").number("count", 3).flag("whole", true).list("names", &["x", "y"]);
    assert_eq!(
        finish(line),
        r#"{"time":"2026-11-25T09:00:00.123456Z","level":"info","target":"folder","message":"read","file":"a b","count":3,"whole":true,"names":["x","y"]}"#
    );
}

#[test]
fn text_is_aligned_and_quotes_what_is_more_than_a_word() {
    let mut line = LogLine::new(TEXT_STYLE, time(), Level::WARN, "folder");
    line.message("cannot read").text("file", "api/tls.crt").text("why", "no \"such\" file").text("none", "");
    assert_eq!(
        finish(line),
        r#"2026-11-25T09:00:00.123Z  WARN folder cannot read file=api/tls.crt why="no \"such\" file" none="""#
    );
}

#[test]
fn colours_are_for_terminals_only() {
    let line = LogLine::new(LineStyle { format: LogFormat::Text, colour: true }, time(), Level::ERROR, "clock");
    assert_eq!(finish(line), "2026-11-25T09:00:00.123Z \u{1b}[31mERROR\u{1b}[0m clock");
}

#[test]
fn a_message_that_looks_like_a_field_is_quoted() {
    let mut line = LogLine::new(TEXT_STYLE, time(), Level::INFO, "h2");
    line.message("got key=value");
    assert!(finish(line).ends_with(r#" h2 "got key=value""#));
}

#[test]
fn blanks_of_other_scripts_and_direction_marks_cannot_forge_a_field() {
    let mut line = LogLine::new(TEXT_STYLE, time(), Level::INFO, "t");
    line.text("a", "x\u{3000}b=y").text("c", "\u{202e}gnol\n");
    assert!(finish(line).ends_with("a=\"x\u{3000}b=y\" c=\"\\\\u{202e}gnol\\\\u{a}\""));
}

#[test]
fn a_long_value_is_cut_and_the_line_says_so() {
    let mut line = LogLine::new(JSON_STYLE, time(), Level::INFO, "t");
    line.text("long", &"é".repeat(5000)).text("after", "there");
    let parsed: serde_json::Value = serde_json::from_str(&finish(line)).unwrap();
    assert!(parsed["long"].as_str().unwrap().ends_with('…'));
    assert_eq!(parsed["after"], "there");
    assert_eq!(parsed["truncated"], true);
}

/// Something that a line may end with.
type LineEnd = for<'a> fn(&'a mut LogLine, &str) -> &'a mut LogLine;

/// What JSON and text have in common, and then what only text has.
const LINE_ENDS: [LineEnd; 9] = [
    |line, value| line.text("v", value),
    |line, value| line.message(value),
    |line, value| line.list("v", &[value, value]),
    |line, value| line.number("v", value.len()),
    |line, _| line.flag("v", true),
    |line, value| line.word(value),
    |line, value| line.quoted_text(value),
    |line, value| line.remark(value),
    |line, _| line.coloured_word("accepted", LineColour::Green),
];

#[test]
fn a_line_is_short_however_little_room_is_left_for_its_end() {
    let long = "a".repeat(2 * MAX_LINE_BYTES);
    for (style, ends) in [(JSON_STYLE, &LINE_ENDS[..5]), (TEXT_STYLE, &LINE_ENDS[..])] {
        for (end, add) in ends.iter().enumerate() {
            for (filled, value) in (800..920).flat_map(|size| ["", "x", "\"", "é", &long].map(|value| (size, value))) {
                let mut line = LogLine::new(style, time(), Level::INFO, "t");
                for _ in 0..7 {
                    line.text("f", &long[..1020]);
                }
                line.text("f", &long[..filled]);
                for _ in 0..3 {
                    add(&mut line, value);
                }
                let out = finish(line);
                assert!(out.len() <= MAX_LINE_BYTES, "{} bytes: end {end} behind {filled}", out.len());
                if style == JSON_STYLE {
                    serde_json::from_str::<serde_json::Value>(&out).unwrap();
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn json_stays_json_and_short_whatever_the_values_hold(
        values in prop::collection::vec((".{0,3000}", "[\"\\\\\n\u{202e}é]{0,900}"), 0..20),
        list in prop::collection::vec(".{0,700}", 0..30),
    ) {
        let mut line = LogLine::new(JSON_STYLE, time(), Level::INFO, "t");
        for (index, (a, b)) in values.iter().enumerate() {
            line.text(&format!("a{index}"), a).text(&format!("b{index}"), b).number(&format!("n{index}"), index);
        }
        line.list("list", &list);
        let out = finish(line);
        prop_assert!(out.len() <= MAX_LINE_BYTES);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
        prop_assert!(!out.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{out}");
    }

    #[test]
    fn text_stays_one_short_line_and_its_fields_can_be_read_back(
        values in prop::collection::vec(".{0,1500}", 0..12),
    ) {
        let mut line = LogLine::new(TEXT_STYLE, time(), Level::INFO, "t");
        for value in &values {
            line.text("v", value);
        }
        let out = finish(line);
        prop_assert!(out.len() <= MAX_LINE_BYTES);
        prop_assert!(!out.contains(['\n', '\r', '\u{1b}']), "{out}");
        // Outside of quotes there is nothing but our own names.
        let mut outside = String::new();
        let (mut inside, mut escape) = (false, false);
        for c in out.chars() {
            match c {
                _ if escape => escape = false,
                '\\' if inside => escape = true,
                '"' => inside = !inside,
                c if !inside => outside.push(c),
                _ => {}
            }
        }
        prop_assert!(!inside);
        prop_assert!(outside.split(' ').skip(3).all(|word| word.is_empty() || word == "t" || word.starts_with("v=") || word == "truncated"), "{outside}");
    }
}
