//! bowline.toml(5), from the same source as `--help`.

use roff::{Inline, Roff, bold, italic, roman};

use super::keys::{Key, Table};
use crate::cli::generate::MANUALS_DATE;

const ABOUT: &str = "\
Defaults for the bowline commands. Keys are the names of the long options, and values are written as on the command line; an \
option that may be repeated takes a list. Durations are 90s, 12h or 7d, sizes 64KiB or 16MiB. A flag counts before an \
environment variable, that before this file, and the file before the default.";

const HOSTS: &str = "\
A table [host.\"PATTERNS\"] may hold the same keys, for the hosts that match: names as ssh was given them, patterns as in \
ssh_config(5), separated by spaces or commas, with * and ? as wildcards and ! to exclude. The first value found counts: the \
tables of hosts in the order of the file, then [client].";

const FAULTS: &str = "\
A key that does not exist is refused, with its line and the nearest right one. bowline config shows what counts, and where \
it came from; bowline config HOST for one host. A running server half reads the file again at SIGHUP (systemctl reload \
bowline), without loss of a session.";

const EXAMPLE: &str = r#"[client]
patience = "12h"

[host."*.example.org !old.example.org"]
port = 4022
relay = ["r1.example.org", "r2.example.org"]

[serve]
listen = ["[::]:22", "0.0.0.0:22"]
listen-tls = ":443"
session-ttl = "3d""#;

/// File name and content.
pub(in crate::cli) fn page() -> (String, Vec<u8>) {
    let mut page = Roff::new();
    page.control("TH", ["bowline.toml", "5", MANUALS_DATE, "bowline", "bowline"]);
    page.control("SH", ["NAME"]);
    page.text([roman("bowline.toml - settings of bowline")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("~/.config/bowline/bowline.toml")]);
    page.control("br", []);
    page.text([italic("/etc/bowline/bowline.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(ABOUT)]);
    page.control("PP", []);
    page.text([roman(
        "The first file is the user's own; the second is read by serve, relay and sshd when root starts them. --config \
         names another.",
    )]);
    for table in Table::ALL {
        page.control("SH", [heading(table)]);
        if table == Table::Client {
            page.text([roman("For proxy, ssh and check."), roman(" "), roman(HOSTS)]);
        }
        table.keys().iter().for_each(|key| describe(&mut page, key));
    }
    page.control("SH", ["FAULTS"]);
    page.text([roman(FAULTS)]);
    page.control("SH", ["EXAMPLE"]);
    page.control("nf", []);
    EXAMPLE.lines().for_each(|line| {
        page.text([roman(line)]);
    });
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("bowline-config"),
        roman("(1), "),
        bold("bowline-proxy"),
        roman("(1), "),
        bold("bowline-serve"),
        roman("(1), "),
        bold("ssh_config"),
        roman("(5)"),
    ]);
    ("bowline.toml.5".to_owned(), page.render().into_bytes())
}

fn heading(table: Table) -> &'static str {
    match table {
        Table::Everywhere => "ABOVE ALL TABLES",
        Table::Client => "[client]",
        Table::Serve => "[serve]",
        Table::Relay => "[relay]",
        Table::Sshd => "[sshd]",
    }
}

fn describe(page: &mut Roff, key: &Key) {
    let value = match &*key.value_name {
        "" => "true or false",
        name => name,
    };
    page.control("TP", []);
    page.text([bold(&*key.name), roman(" = "), italic(value)]);
    let mut said: Vec<Inline> = vec![roman(format!("{}.", key.summary))];
    if let Some(default) = &key.default {
        said.push(roman(format!(" Default: {default}.")));
    }
    if let Some(variable) = &key.variable {
        said.push(roman(format!(" Environment: {variable}.")));
    }
    page.text(said);
}
