//! `bowline setup --server`: installs files, and says how to start what they describe.

mod files;
mod next_steps;
mod sshd;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use self::files::{Packaged, SYSUSERS, UNIT};
use self::next_steps::{is_running, tool};
use self::sshd::Sshd;
use super::change::Consent;
use super::change::{FileError, Modes, Original, diff};
use super::say;
use crate::cli::args::{CommonArgs, ServeOptions, SetupArgs};
use crate::cli::places::Owner;
use crate::cli::report::{self, Failure};
use crate::cli::serve::ServeSettings;
use crate::cli::settings::Context;
use crate::cli::values::Target;
use crate::server::sshd_config::SshdConfig;

/// For everybody to read.
const MODES: Modes = Modes {
    file: 0o644,
    folder: 0o755,
};

/// Folders that the unit hides from its process (ProtectHome, PrivateTmp).
const HIDDEN: &[&str] = &["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Where programs that are installed are.
const PROGRAMS: [&str; 2] = ["usr/bin/bowline", "usr/local/bin/bowline"];

/// sshd's, where there is none to ask.
const DEFAULT_PORT: u16 = 22;

/// What `bowline setup --server` works by.
#[derive(Debug)]
pub(super) struct ServerSettings {
    undo: bool,
    consent: Consent,
    /// The system to prepare. Default: this one, `/`.
    root: PathBuf,
    /// What the server half will work by, as `bowline.toml` there says.
    serve: ServeSettings,
}

impl ServerSettings {
    /// # Errors
    /// There is no such folder, or `bowline.toml` in it cannot be used.
    pub(super) fn new(args: &SetupArgs, mut common: CommonArgs) -> Result<Self, Failure> {
        let named = args.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let root = fs::canonicalize(&named).map_err(|error| report::cannot_use_file(&named, &error))?;
        if root != Path::new("/") {
            // This machine's own settings say nothing about another.
            let file = root.join("etc/bowline/bowline.toml");
            let nothing = PathBuf::from("/dev/null");
            common.config.get_or_insert(if file.exists() { file } else { nothing });
        }
        let context = Context::load(common, Owner::System)?;
        Ok(ServerSettings {
            undo: args.undo,
            consent: Consent::of(args),
            serve: ServeSettings::new(ServeOptions::default(), &context)?,
            root,
        })
    }

    /// This machine, not a folder.
    fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    fn has_systemd(&self) -> bool {
        self.is_here() && Path::new("/run/systemd/system").is_dir()
    }

    /// A unit that a package has brought.
    fn packaged_unit(&self, name: &str) -> Option<PathBuf> {
        let units = ["usr/lib", "lib"].map(|folder| self.root.join(folder).join("systemd/system").join(name));
        units.into_iter().find(|unit| unit.is_file())
    }

    /// The one that the server half will ask.
    fn sshd(&self) -> Option<Sshd> {
        let binary = self.serve.sshd_binary.clone();
        let config = SshdConfig {
            binary: binary.unwrap_or_else(|| PathBuf::from("/usr/sbin/sshd")),
            config: self.serve.sshd_config.clone(),
        };
        Sshd::find(&self.root, config)
    }

    /// A file of the system that is prepared, and of no other.
    fn read(&self, path: &str) -> Result<Original, Failure> {
        let named = self.root.join(path);
        let original = Original::read(&named).map_err(|error| report::cannot_change(&error))?;
        let existing = original.path().ancestors().find_map(|path| fs::canonicalize(path).ok());
        if existing.is_some_and(|existing| existing.starts_with(&self.root)) {
            return Ok(original);
        }
        Err(report::cannot_change(&FileError::Outside {
            path: named,
            root: self.root.clone(),
        }))
    }
}

/// Installs the files, or removes them.
///
/// # Errors
/// A file cannot be changed; nobody says yes; sshd does not take its settings.
pub(super) fn run(settings: &ServerSettings) -> Result<(), Failure> {
    if settings.is_here() && settings.consent != Consent::DryRun && !geteuid().is_root() {
        return Err(report::no_root());
    }
    match settings.undo {
        true => remove(settings),
        false => install(settings),
    }
}

/// A file and what it is to hold.
struct Change {
    file: &'static Packaged,
    original: Original,
    text: String,
}

fn install(settings: &ServerSettings) -> Result<(), Failure> {
    let sshd = settings.sshd();
    if let Some(unit) = settings.packaged_unit("bowline.service") {
        say(&format!(
            "nothing to do: a package has installed {} and the other files\n",
            unit.display()
        ));
        if settings.read(UNIT)?.exists() {
            say(&format!("note: /{UNIT} overrides it; --undo removes that file\n"));
        }
        print_next_steps(settings, sshd.as_ref());
        return Ok(());
    }
    let program = program(settings)?;
    let (changes, diffs) = changes(settings, &program, sshd.as_ref())?;
    print_sshd_notes(settings, sshd.as_ref());
    if changes.is_empty() {
        say("nothing to do: all files are installed already\n");
        print_next_steps(settings, sshd.as_ref());
        return Ok(());
    }
    let lines = changes.iter().map(|change| {
        let what = if change.original.exists() { "changed" } else { "new" };
        (what, &change.original)
    });
    let then = match settings.has_systemd() {
        true => "  then     create the user bowline (systemd-sysusers), run systemctl daemon-reload\n",
        false => "",
    };
    if !settings.consent.to(&format!("{diffs}{}{then}", summary(lines)))? {
        return Ok(());
    }
    // What it says before is not about our files.
    let before = sshd.as_ref().filter(|_| settings.is_here()).map(Sshd::test);
    for change in &changes {
        let replaced = change.original.replace(change.text.as_bytes(), MODES);
        replaced.map_err(|error| report::cannot_change(&error))?;
    }
    match (before, &sshd) {
        (Some(Ok(())), Some(sshd)) => check_sshd(settings, sshd, &changes)?,
        (Some(Err(said)), _) => say(&format!("note: sshd -t failed even before this change: {said}\n")),
        _ => {}
    }
    if settings.has_systemd() {
        tool("systemd-sysusers", &[&format!("/{SYSUSERS}")]);
        tool("systemctl", &["daemon-reload"]);
    }
    say("done: all files are installed; no service was enabled or started, no port was opened\n");
    print_next_steps(settings, sshd.as_ref());
    Ok(())
}

/// What the diffs come to: their beginning may be out of sight.
fn summary<'a>(files: impl Iterator<Item = (&'static str, &'a Original)>) -> String {
    let lines = files.map(|(what, original)| format!("  {what:<8} {}\n", original.path().display()));
    std::iter::once("\nSummary:\n".to_owned()).chain(lines).collect()
}

/// What has to be changed, and how it is shown.
fn changes(settings: &ServerSettings, program: &Path, sshd: Option<&Sshd>) -> Result<(Vec<Change>, String), Failure> {
    let (mut changes, mut diffs) = (Vec::new(), String::new());
    let version = sshd.map(Sshd::at_least);
    for file in Packaged::all().iter().filter(|file| file.is_for(version)) {
        let original = settings.read(file.path)?;
        let text = file.text(program);
        if original.exists() && original.content() == text.as_bytes() {
            continue;
        }
        if settings.consent != Consent::DryRun {
            original.check_ours().map_err(|error| report::cannot_change(&error))?;
        }
        if original.exists() && !file.is_unchanged(original.content()) {
            let path = original.path().display();
            diffs += &format!("note: {path} exists with other content, which this change would overwrite\n");
        }
        let old = original.exists().then(|| original.content());
        diffs += &diff(original.path(), old, Some(text.as_bytes()));
        changes.push(Change { file, original, text });
    }
    Ok((changes, diffs))
}

/// The program that the unit is to start.
fn program(settings: &ServerSettings) -> Result<PathBuf, Failure> {
    let installed = PROGRAMS.iter().find(|path| settings.root.join(path).is_file());
    let installed = installed.map(|path| Path::new("/").join(path));
    if !settings.is_here() {
        if installed.is_none() {
            let place = settings.root.join(PROGRAMS[0]);
            say(&format!(
                "note: also install the program there, as {}\n",
                place.display()
            ));
        }
        return Ok(installed.unwrap_or_else(|| Path::new("/").join(PROGRAMS[0])));
    }
    let own = std::env::current_exe().map_err(|error| report::cannot_run("bowline", &error))?;
    match (HIDDEN.iter().find(|folder| own.starts_with(folder)), installed) {
        (None, _) => Ok(own),
        (Some(_), Some(installed)) => {
            say(&format!(
                "note: the service will run {}, not this program\n",
                installed.display()
            ));
            Ok(installed)
        }
        (Some(folder), None) => Err(report::hidden_program(&own, folder)),
    }
}

fn print_sshd_notes(settings: &ServerSettings, sshd: Option<&Sshd>) {
    let Some(sshd) = sshd else {
        return match &settings.serve.sshd_config {
            Some(config) => say(&format!(
                "note: {} does not exist, though bowline.toml names it as sshd's configuration; no settings for \
                 sshd are installed\n",
                config.display()
            )),
            None => say("note: no sshd was found; no settings for sshd are installed\n"),
        };
    };
    if !sshd.has_version() {
        say("note: the version of sshd is not known; only settings that every version accepts are installed\n");
    }
    if !sshd.includes {
        say(&format!(
            "note: {} does not include the folder with these settings; make this its first line:\n      \
             Include /etc/ssh/sshd_config.d/*.conf\n",
            sshd.config().display()
        ));
    }
}

/// What is not as it should be, and what is to be done by hand.
fn print_next_steps(settings: &ServerSettings, sshd: Option<&Sshd>) {
    let mut port = match settings.serve.target {
        Some(Target::Tcp { port, .. }) => Some(port),
        Some(Target::Builtin) => None,
        None => Some(sshd.and_then(|sshd| sshd.ports().first().copied()).unwrap_or(22)),
    };
    if let Some(sshd) = sshd.filter(|_| settings.is_here()) {
        for ineffective in sshd.ineffective() {
            say(&format!(
                "note: {ineffective}: another file takes precedence; rename this one so that it sorts first\n"
            ));
        }
        let ports = sshd.ports();
        if let (Some(joined), Some(own)) = (port, ports.first())
            && !ports.contains(&joined)
        {
            say(&format!(
                "note: sshd listens on port {own}, but bowline would connect to port {joined}; add to \
                 /etc/bowline/bowline.toml:\n      [serve]\n      target = \"127.0.0.1:{own}\"\n"
            ));
            port = Some(*own);
        }
    }
    next_steps::print(settings, sshd.is_some(), port.unwrap_or(DEFAULT_PORT));
}

/// Takes the settings for sshd out again if it would not start with them.
fn check_sshd(settings: &ServerSettings, sshd: &Sshd, changes: &[Change]) -> Result<(), Failure> {
    let Err(said) = sshd.test() else {
        return Ok(());
    };
    for change in changes.iter().filter(|change| change.file.is_for_sshd()) {
        let present = settings.read(change.file.path)?;
        let restored = match change.original.exists() {
            true => present.replace(change.original.content(), MODES),
            false => present.remove(),
        };
        restored.map_err(|error| report::cannot_change(&error))?;
    }
    Err(report::sshd_rejects(&said))
}

fn remove(settings: &ServerSettings) -> Result<(), Failure> {
    let (mut ours, mut kept, mut diffs) = (Vec::new(), String::new(), String::new());
    let package = settings.packaged_unit("bowline.service");
    if let Some(unit) = &package {
        kept += &format!(
            "kept: {} and the other files that a package has installed\n",
            unit.display()
        );
    }
    // A package's settings for sshd are in the same place.
    for file in (Packaged::all().iter()).filter(|file| package.is_none() || !file.is_for_sshd()) {
        let original = settings.read(file.path)?;
        let named = settings.root.join(file.path);
        let is_as_installed = original.path() == named && file.is_unchanged(original.content());
        if original.exists() && !is_as_installed {
            let path = named.display();
            kept += &format!("kept: {path}, because it differs from what this version of bowline installs\n");
        } else if original.exists() {
            diffs += &diff(original.path(), Some(original.content()), None);
            ours.push((file, original));
        }
    }
    if ours.is_empty() {
        say(&format!(
            "{kept}nothing to do: no file that this version of bowline installs was found\n"
        ));
        return Ok(());
    }
    let wants = settings
        .root
        .join("etc/systemd/system/multi-user.target.wants/bowline.service");
    if ours.iter().any(|(file, _)| file.path == UNIT) {
        if fs::symlink_metadata(wants).is_ok() {
            return Err(report::cannot_undo_enabled());
        }
        if settings.has_systemd() && is_running("bowline.service") {
            return Err(report::cannot_undo_running());
        }
    }
    let lines = ours.iter().map(|(_, original)| ("removed", original));
    if !settings.consent.to(&format!("{diffs}{}{kept}", summary(lines)))? {
        return Ok(());
    }
    for (_, original) in &ours {
        original.remove().map_err(|error| report::cannot_change(&error))?;
    }
    if settings.has_systemd() {
        tool("systemctl", &["daemon-reload"]);
    }
    say("done: removed what setup had installed\n");
    if settings.is_here() {
        next_steps::print_after_removal(settings, ours.iter().any(|(file, _)| file.is_for_sshd()));
    }
    Ok(())
}
