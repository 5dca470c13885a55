//! The commands of the scripts.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use kvorum::core::{NextSegment, Options, SessionBounds};
use kvorum_protocol::{Command, KeyList, Limits, LogIndex, Lsn, Op, PairList, Quorum, Read};

use super::machine::{Machine, Setup};
use super::words::{Name, Text};

#[derive(goldenscript::Command)]
pub enum Step {
    /// First boot on an empty disk.
    Boot {
        #[arg(key)]
        voters: Option<u16>,
        #[arg(key)]
        memory_max: Option<u64>,
        /// Bytes that the log is certain to take.
        #[arg(key)]
        room: Option<u64>,
        #[arg(key)]
        sessions: Option<usize>,
        #[arg(key)]
        slots: Option<usize>,
        /// Milliseconds after which an unused session is over.
        #[arg(key)]
        idle: Option<u64>,
    },
    /// The process or the power dies: what is not durable, or not up to `kept`, is lost.
    Crash {
        #[arg(key)]
        kept: Option<u64>,
    },
    /// Starts from what the disk holds.
    Restart,

    Set {
        client: Client,
        key: Text,
        value: Text,
        #[arg(key)]
        w: Option<Quorum>,
        /// Milliseconds.
        #[arg(key)]
        timeout: Option<u64>,
        #[arg(key)]
        session: Option<Name>,
    },
    SetMany {
        client: Client,
        pairs: Vec<(String, Text)>,
    },
    Delete {
        client: Client,
        keys: Vec<Text>,
        #[arg(key)]
        session: Option<Name>,
    },
    /// Opens a session.
    Open {
        client: Client,
        #[arg(key)]
        window: u32,
    },
    Get {
        client: Client,
        key: Text,
        #[arg(key)]
        r: Option<Quorum>,
        #[arg(key)]
        timeout: Option<u64>,
        #[arg(key)]
        min_version: Option<u64>,
    },
    GetMany {
        client: Client,
        keys: Vec<Text>,
    },
    Exists {
        client: Client,
        keys: Vec<Text>,
    },
    Length {
        client: Client,
        key: Text,
    },

    /// Both clocks advance by so many milliseconds, and the timers are looked at.
    Tick(u64),
    /// The wall clock is set.
    Wall(u64),
    /// The log has room for so many bytes behind the record at `behind`, or behind all that it was
    /// given; the `next` segment is ready, unless it says coming or lacking.
    Room {
        bytes: u64,
        #[arg(key)]
        behind: Option<u64>,
        #[arg(key)]
        next: Option<Next>,
    },
    /// The log is durable up to this position, or as far as it was given.
    Durable(Option<u64>),
    Poll,
    Seal,
    /// Turns, until nothing is left to do.
    Settle,

    Status,
    /// Who waits for an answer.
    Waiting,
    /// When the next timer is due.
    Deadline,
    /// What the disk holds.
    Log,
}

/// `c1`, `c2`, ...
pub struct Client(pub u64);

impl FromStr for Client {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Client, Self::Err> {
        let number = name.strip_prefix('c').and_then(|number| number.parse().ok());
        number.map(Client).ok_or("a client is called c1, c2, ...")
    }
}

/// `next=coming`
#[derive(Clone, Copy)]
pub struct Next(NextSegment);

impl Next {
    /// What a script says, or that it is ready.
    pub fn or_ready(next: Option<Next>) -> NextSegment {
        next.map_or(NextSegment::Ready, |next| next.0)
    }
}

impl FromStr for Next {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Next, Self::Err> {
        match word {
            "ready" => Ok(Next(NextSegment::Ready)),
            "coming" => Ok(Next(NextSegment::Coming)),
            "lacking" => Ok(Next(NextSegment::Lacking)),
            _ => Err("the next segment is ready, coming or lacking"),
        }
    }
}

/// One script: no machine before its first `boot`.
#[derive(Default)]
pub struct Script {
    machine: Option<Machine>,
}

impl goldenscript::Runner for Script {
    type Command = Step;

    fn run(&mut self, step: &Step, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        if let Step::Boot { voters, memory_max, room, sessions, slots, idle } = step {
            let default = Setup::default();
            let machine = Machine::new(Setup {
                voters: voters.unwrap_or(default.voters),
                memory_max: *memory_max,
                log_room_bytes: room.unwrap_or(default.log_room_bytes),
                sessions: bounds(*sessions, *slots, *idle),
                ..default
            });
            return Ok(self.machine.insert(machine).status());
        }
        let machine = self.machine.as_mut().ok_or("a script begins with boot")?;
        Ok(match step {
            Step::Boot { .. } => unreachable!("done above"),
            Step::Crash { kept } => machine.crash(kept.map(Lsn)),
            Step::Restart => machine.restart(),
            Step::Tick(ms) => {
                machine.tick(*ms);
                String::new()
            }
            Step::Wall(ms) => {
                machine.set_wall(*ms);
                String::new()
            }
            Step::Room { bytes, behind, next } => {
                machine.room(*bytes, behind.map(Lsn), Next::or_ready(*next));
                String::new()
            }
            Step::Durable(upto) => machine.durable(upto.map(Lsn)),
            Step::Poll => machine.poll(),
            Step::Seal => machine.seal(),
            Step::Settle => machine.settle(),
            Step::Status => machine.status(),
            Step::Waiting => machine.waiting(),
            Step::Deadline => machine.deadline(),
            Step::Log => machine.log(),
            request => ask(machine, request)?,
        })
    }
}

fn ask(machine: &mut Machine, request: &Step) -> Result<String, Box<dyn Error>> {
    let limits = Limits::default();
    let scratch = &mut Vec::new();
    let terms = Options::default();
    Ok(match request {
        Step::Set { client, key, value, w, timeout, session } => {
            let op = Op::Set { key: &key.0, value: &value.0 };
            machine.write(client.0, &command(*session, op), &options(*w, *timeout))
        }
        Step::SetMany { client, pairs } => {
            let pairs = pairs.iter().map(|(key, value)| (key.as_bytes(), value.0.as_slice()));
            let op = Op::SetMany(PairList::encode(pairs, &limits, scratch)?);
            machine.write(client.0, &Command::new(op), &terms)
        }
        Step::Delete { client, keys, session } => {
            let op = match keys.as_slice() {
                [key] => Op::Delete { key: &key.0 },
                keys => Op::DeleteMany(list(keys, scratch)?),
            };
            machine.write(client.0, &command(*session, op), &terms)
        }
        Step::Open { client, window } => {
            let op = Op::OpenSession { window: *window };
            machine.write(client.0, &Command::new(op), &terms)
        }
        Step::Get { client, key, r, timeout, min_version } => {
            let min_version = LogIndex(min_version.unwrap_or(0));
            machine.read(client.0, &Read::Get(&key.0), min_version, &options(*r, *timeout))
        }
        Step::GetMany { client, keys } => {
            machine.read(client.0, &Read::GetMany(list(keys, scratch)?), LogIndex(0), &terms)
        }
        Step::Exists { client, keys } => {
            machine.read(client.0, &Read::Exists(list(keys, scratch)?), LogIndex(0), &terms)
        }
        Step::Length { client, key } => {
            machine.read(client.0, &Read::Length(&key.0), LogIndex(0), &terms)
        }
        _ => unreachable!("only requests come here"),
    })
}

fn list<'a>(keys: &[Text], scratch: &'a mut Vec<u8>) -> Result<KeyList<'a>, Box<dyn Error>> {
    let keys = keys.iter().map(|key| key.0.as_slice());
    Ok(KeyList::encode(keys, &Limits::default(), scratch)?)
}

pub fn options(quorum: Option<Quorum>, timeout_ms: Option<u64>) -> Options {
    Options { quorum, timeout: timeout_ms.map(Duration::from_millis) }
}

pub fn command(session: Option<Name>, op: Op<'_>) -> Command<'_> {
    Command { session: session.map(|name| name.0), op }
}

pub fn bounds(sessions: Option<usize>, slots: Option<usize>, idle: Option<u64>) -> SessionBounds {
    let default = SessionBounds::default();
    SessionBounds {
        sessions: sessions.unwrap_or(default.sessions),
        slots: slots.unwrap_or(default.slots),
        idle_ms: idle.unwrap_or(default.idle_ms),
    }
}
