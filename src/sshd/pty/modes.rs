//! Terminal modes as RFC 4254 section 8 encodes them. A mode this system does not have is passed over.

use std::os::fd::AsFd;

use russh::Pty as Code;
use rustix::io;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// Sets what the client asks for and leaves the rest as the system has it.
pub(super) fn apply(terminal: impl AsFd, modes: &[(Code, u32)]) -> io::Result<()> {
    let mut termios = tcgetattr(&terminal)?;
    for &(code, value) in modes {
        set(&mut termios, code, value);
    }
    tcsetattr(&terminal, OptionalActions::Now, &termios)
}

fn set(termios: &mut Termios, code: Code, value: u32) {
    let on = value != 0;
    if let Some(key) = key(code) {
        // 255 says "none"; Linux says 0.
        termios.special_codes[key] = u8::try_from(value).ok().filter(|byte| *byte != 255).unwrap_or(0);
    } else if let Some(flag) = input(code) {
        termios.input_modes.set(flag, on);
    } else if let Some(flag) = local(code) {
        termios.local_modes.set(flag, on);
    } else if let Some(flag) = output(code) {
        termios.output_modes.set(flag, on);
    } else {
        set_line(termios, code, value);
    }
}

fn set_line(termios: &mut Termios, code: Code, value: u32) {
    let on = value != 0;
    let width = |modes: ControlModes, width| modes.difference(ControlModes::CSIZE).union(width);
    match code {
        Code::CS7 if on => termios.control_modes = width(termios.control_modes, ControlModes::CS7),
        Code::CS8 if on => termios.control_modes = width(termios.control_modes, ControlModes::CS8),
        Code::PARENB => termios.control_modes.set(ControlModes::PARENB, on),
        Code::PARODD => termios.control_modes.set(ControlModes::PARODD, on),
        // A speed the system does not know stays what it was: a pty has none.
        Code::TTY_OP_ISPEED => drop(termios.set_input_speed(value)),
        Code::TTY_OP_OSPEED => drop(termios.set_output_speed(value)),
        _ => {}
    }
}

fn key(code: Code) -> Option<SpecialCodeIndex> {
    Some(match code {
        Code::VINTR => SpecialCodeIndex::VINTR,
        Code::VQUIT => SpecialCodeIndex::VQUIT,
        Code::VERASE => SpecialCodeIndex::VERASE,
        Code::VKILL => SpecialCodeIndex::VKILL,
        Code::VEOF => SpecialCodeIndex::VEOF,
        Code::VEOL => SpecialCodeIndex::VEOL,
        Code::VEOL2 => SpecialCodeIndex::VEOL2,
        Code::VSTART => SpecialCodeIndex::VSTART,
        Code::VSTOP => SpecialCodeIndex::VSTOP,
        Code::VSUSP => SpecialCodeIndex::VSUSP,
        Code::VREPRINT => SpecialCodeIndex::VREPRINT,
        Code::VWERASE => SpecialCodeIndex::VWERASE,
        Code::VLNEXT => SpecialCodeIndex::VLNEXT,
        Code::VDISCARD => SpecialCodeIndex::VDISCARD,
        _ => return None,
    })
}

fn input(code: Code) -> Option<InputModes> {
    Some(match code {
        Code::IGNPAR => InputModes::IGNPAR,
        Code::PARMRK => InputModes::PARMRK,
        Code::INPCK => InputModes::INPCK,
        Code::ISTRIP => InputModes::ISTRIP,
        Code::INLCR => InputModes::INLCR,
        Code::IGNCR => InputModes::IGNCR,
        Code::ICRNL => InputModes::ICRNL,
        Code::IXON => InputModes::IXON,
        Code::IXANY => InputModes::IXANY,
        Code::IXOFF => InputModes::IXOFF,
        Code::IMAXBEL => InputModes::IMAXBEL,
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        Code::IUTF8 => InputModes::IUTF8,
        #[cfg(target_os = "linux")]
        Code::IUCLC => InputModes::IUCLC,
        _ => return None,
    })
}

fn local(code: Code) -> Option<LocalModes> {
    Some(match code {
        Code::ISIG => LocalModes::ISIG,
        Code::ICANON => LocalModes::ICANON,
        Code::ECHO => LocalModes::ECHO,
        Code::ECHOE => LocalModes::ECHOE,
        Code::ECHOK => LocalModes::ECHOK,
        Code::ECHONL => LocalModes::ECHONL,
        Code::NOFLSH => LocalModes::NOFLSH,
        Code::TOSTOP => LocalModes::TOSTOP,
        Code::IEXTEN => LocalModes::IEXTEN,
        Code::ECHOCTL => LocalModes::ECHOCTL,
        Code::ECHOKE => LocalModes::ECHOKE,
        Code::PENDIN => LocalModes::PENDIN,
        #[cfg(target_os = "linux")]
        Code::XCASE => LocalModes::XCASE,
        _ => return None,
    })
}

fn output(code: Code) -> Option<OutputModes> {
    Some(match code {
        Code::OPOST => OutputModes::OPOST,
        Code::ONLCR => OutputModes::ONLCR,
        Code::OCRNL => OutputModes::OCRNL,
        Code::ONOCR => OutputModes::ONOCR,
        Code::ONLRET => OutputModes::ONLRET,
        #[cfg(target_os = "linux")]
        Code::OLCUC => OutputModes::OLCUC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_every_kind_reach_the_terminal() {
        let pty = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        let wanted = [
            (Code::VERASE, 8),
            (Code::VINTR, 255),
            (Code::ECHO, 0),
            (Code::IXANY, 1),
            (Code::ONLCR, 0),
        ];
        apply(&pty, &wanted).unwrap();
        let termios = tcgetattr(&pty).unwrap();
        assert_eq!(termios.special_codes[SpecialCodeIndex::VERASE], 8);
        assert_eq!(termios.special_codes[SpecialCodeIndex::VINTR], 0);
        assert!(!termios.local_modes.contains(LocalModes::ECHO));
        assert!(termios.input_modes.contains(InputModes::IXANY));
        assert!(!termios.output_modes.contains(OutputModes::ONLCR));
        assert!(
            termios.local_modes.contains(LocalModes::ICANON),
            "what was not asked for stays"
        );
    }
}
