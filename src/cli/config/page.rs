//! bowline.toml(5), from the same source as `--help`.

use roff::{Inline, Roff, bold, italic, roman};

use super::keys::{Key, Table};
use crate::cli::generate::MANUALS_DATE;

const ABOUT: &str = "\
Default values for the options of the bowline commands. Keys are the names of the long options. Values are written as on the \
command line; an option that may be repeated takes a list. Durations are written 90s, 12h or 7d, sizes 64KiB or 16MiB. The \
order of precedence is: command line, environment variable, this file, default.";

const HOSTS: &str = "\
A table [host.\"PATTERNS\"] may have the same keys, for the hosts that match. The patterns are matched against the name that ssh \
was given. They are written as in ssh_config(5): separated by spaces or commas, with * and ? as wildcards, and ! to exclude. The \
first value found is used: the host tables are read in the order of the file, then [client].";

const ERRORS: &str = "\
An unknown key is an error; the message names the line and the most similar key. bowline config shows the effective settings and \
where each comes from; bowline config HOST shows them for one host. A running server half reads the file again at SIGHUP (systemctl \
reload bowline). Its sessions are kept.";

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
        "The first file is the user's own. The second is read by serve, relay and sshd if root starts them. --config names \
         another file.",
    )]);
    for table in Table::ALL {
        page.control("SH", [heading(table)]);
        if table == Table::Client {
            page.text([roman("For proxy, ssh and check."), roman(" "), roman(HOSTS)]);
        }
        table.keys().iter().for_each(|key| describe(&mut page, key));
    }
    page.control("SH", ["ERRORS"]);
    page.text([roman(ERRORS)]);
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
        Table::Everywhere => "KEYS BEFORE THE FIRST TABLE",
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
