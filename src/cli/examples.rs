//! The examples that `--help` and the manual show, a few for each command. A test parses every one of them.

use clap::Command;

/// The words of a command after `sidekey`, and its examples: what is typed after these words, and what that does.
type CommandExamples = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: [CommandExamples; 29] = [
    (
        "run",
        &[
            ("--backend http://127.0.0.1:8080", "one ingress on port 8443 with the key pair in certs/"),
            ("--config sidekey.toml", "everything that the file says"),
        ],
    ),
    ("status", &[("", "one screen; exit code 1 if anything needs attention"), ("--json", "the same for a script")]),
    (
        "check",
        &[
            ("--config sidekey.toml", "the configuration and every file in the folder"),
            ("--config sidekey.toml --config-only", "the configuration alone, where the folder is elsewhere"),
        ],
    ),
    ("demo", &[("", "a rotation under load, explained"), ("--serve", "the same, and goes on running to be tried out")]),
    ("keyring", &[("list", "every keyring"), ("show api", "one with every key pair")]),
    ("keyring list", &[("", "current key pair, what waits, when overlaps end"), ("--json", "the same for a script")]),
    ("keyring show", &[("api", "every key pair of the keyring and the reason for its standing")]),
    (
        "keyring new",
        &[
            ("api --dns api.example.com", "ECDSA P-256, self-signed; staged if the keyring has a current key pair"),
            ("api --uri spiffe://example.com/orders --key-type rsa3072 --activate", "RSA, and current at once"),
        ],
    ),
    (
        "keyring csr",
        &[
            ("api --dns api.example.com --out api.csr", "a new key, and the request that goes to the CA"),
            ("api --key current --out api.csr", "a request for the key that is in use"),
        ],
    ),
    (
        "keyring import",
        &[
            ("api issued.pem", "the CA's answer, joined to the key that waits for it"),
            ("salesforce partner.p12 --password-file partner.p12.pass", "a keystore"),
        ],
    ),
    (
        "keyring export",
        &[
            ("api", "certificate and chain of the current key pair, for the partner"),
            ("api 3fa91c --format der --out api.cer", "another key pair's certificate, as DER"),
        ],
    ),
    ("keyring promote", &[("api 3fa91c", "this staged key pair becomes current")]),
    ("keyring rollback", &[("api", "back to the key pair that was current before")]),
    ("keyring retire", &[("api 77b2e0", "its overlap ends now; `sidekey rotation` says whether that is safe")]),
    ("keyring revoke", &[("api 77b2e0", "never shown again, even if its files come back")]),
    ("keyring ack", &[("api --why 'renewal is ordered, ticket 4711'", "no more mail until the last threshold")]),
    (
        "rotation",
        &[
            ("", "every keyring in overlap, with one verdict each"),
            ("--keyring api --json", "one of them, for a script"),
        ],
    ),
    ("rotation forget", &[("203.0.113.7", "this source is shown the new key pair again")]),
    (
        "handshakes",
        &[
            ("--failed --since 24h", "why handshakes failed since yesterday"),
            ("--peer acme --follow", "those of one partner, as they come"),
            ("show 4711", "everything about the handshake of one connection"),
        ],
    ),
    ("handshakes show", &[("4711", "with the certificates that the peer sent")]),
    (
        "inspect",
        &[("partner.pem", "what is in a file"), ("--keyring api 2027.p12", "and whether this keyring would accept it")],
    ),
    ("probe", &[("api.partner.example:8443 --keyring partner", "what the partner offers, asks for and accepts")]),
    (
        "registry",
        &[("audit", "what needs attention"), ("export --format csv", "the table that replaces the spreadsheet")],
    ),
    (
        "registry export",
        &[("--format csv", "one row for each key pair"), ("--format csv --table peers", "peers and upstreams")],
    ),
    ("registry audit", &[("", "exit code 1 if there are findings")]),
    ("registry history", &[("api --since 30d", "who changed this keyring in the last month, and why")]),
    (
        "token",
        &[(
            "salesforce --issuer 3MVG9 --subject sync@example.com --audience https://login.salesforce.com",
            "an assertion",
        )],
    ),
    (
        "wait",
        &[
            ("--timeout 30", "until the sidecar of this configuration is ready"),
            ("--probes 127.0.0.1:9901", "of another"),
        ],
    ),
    ("reload", &[("", "configuration and folder, and what came of it")]),
];

/// Commands whose only example says what it does.
const LATER: [CommandExamples; 3] = [
    ("stop", &[("", "drains, then exits: the last line of a Job")]),
    ("completions", &[("bash", "into /etc/bash_completion.d/sidekey, for example")]),
    ("man", &[("/usr/local/share/man/man1", "one page for each command")]),
];

/// The command line with examples behind the help of every command.
pub(super) fn add_examples(command: Command) -> Command {
    EXAMPLES.iter().chain(&LATER).fold(command, |command, (words, examples)| {
        let words: Vec<&str> = words.split(' ').collect();
        add_help(command, &words, &format_examples(&words.join(" "), examples))
    })
}

fn add_help(command: Command, words: &[&str], text: &str) -> Command {
    match words {
        [] => command.after_help(text.to_owned()),
        [first, rest @ ..] => {
            // A command that does not exist is left out: a test finds it.
            if command.find_subcommand(first).is_none() {
                return command;
            }
            let text = text.to_owned();
            command.mut_subcommand(first, |inner| add_help(inner, rest, &text))
        }
    }
}

fn format_examples(words: &str, examples: &[(&str, &str)]) -> String {
    let lines = examples.iter().map(|(typed, does)| {
        let line = format!("sidekey {words} {typed}");
        format!("  {}\n      {does}", line.trim_end())
    });
    format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command_line;

    /// Every command, with the words that lead to it.
    fn all_commands(command: &Command, words: &[&str]) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let words: Vec<&str> = words.iter().copied().chain([inner.get_name()]).collect();
            let help = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
            all.push((words.join(" "), help));
            all.extend(all_commands(inner, &words));
        }
        all
    }

    #[test]
    fn the_help_of_every_command_shows_examples() {
        let command = command_line();
        let all = all_commands(&command, &[]);
        for (words, help) in &all {
            assert!(help.starts_with("Examples:\n"), "sidekey {words} has no examples");
        }
        assert_eq!(all.len(), EXAMPLES.len() + LATER.len(), "examples of commands that do not exist");
    }

    #[test]
    fn every_example_is_understood() {
        for (words, examples) in EXAMPLES.iter().chain(&LATER) {
            for (typed, _) in *examples {
                let line = format!("sidekey {words} {typed}");
                // A quoted word is one argument.
                let parts = line.split('\'').enumerate();
                let typed = parts.flat_map(|(place, part)| match place % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
                    _ => vec![part.to_owned()],
                });
                command_line().try_get_matches_from(typed).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }
}
