//! A program on a terminal of its own, of which everything is awaited, its end too.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::deadline;

pub struct Terminal {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    child: Child,
    /// What was printed and not expected yet.
    unread: String,
}

impl Terminal {
    /// Starts a program on an xterm.
    pub fn start(command: &mut Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it opens");
        // Of a terminal without a size programs ask where their cursor is.
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("it has a size");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let path = std::ffi::OsStr::from_bytes(name.as_bytes());
        let open = || File::options().read(true).write(true).open(path).expect("the other side");
        let child = command
            .env("TERM", "xterm")
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .expect("the program starts");
        // The command would keep its side of the terminal open behind the program's end.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().expect("a descriptor");
        let (printed, screen) = channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // An error is how a terminal ends whose other side is closed.
            while let Ok(read @ 1..) = output.read(&mut chunk) {
                if printed.send(chunk[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { keyboard, screen, child, unread: String::new() }
    }

    /// Presses keys. Before a prompt a program may throw away what was typed: await the prompt.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Reads past `words`; answers what came before them.
    #[track_caller]
    pub fn expect(&mut self, words: &str) -> String {
        let deadline = deadline();
        loop {
            if let Some((before, behind)) = self.unread.split_once(words) {
                let (before, behind) = (before.to_owned(), behind.to_owned());
                self.unread = behind;
                return before;
            }
            assert!(self.read(deadline), "ended before {words:?}: {:?}", self.unread);
        }
    }

    /// Waits for the end of the program; answers its exit code, and what it printed at last.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        let deadline = deadline();
        while self.read(deadline) {}
        let status = self.child.wait().expect("it has ended");
        (status.code(), std::mem::take(&mut self.unread))
    }

    /// Whether the program still has its terminal.
    #[track_caller]
    fn read(&mut self, deadline: Instant) -> bool {
        match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                self.unread.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("silent behind {:?}", self.unread),
        }
    }
}

/// What a test has left is not waited for.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
