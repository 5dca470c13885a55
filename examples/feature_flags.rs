//! Feature flags: switched for a part of the users, for all, or off, while the program runs; each
//! machine asks the nearest replica, and what it decides for a user stays the same everywhere.
//!
//! `kvorum demo` in one window; here, with what it printed:
//! `KVORUM_SERVERS=... cargo run --example feature_flags`

use std::collections::HashMap;
use std::error::Error;

use kvorum::client::{CallOptions, Client, LogIndex, Options, Quorum, ReadFrom};

const FLAGS: [&str; 2] = ["dark-mode", "new-checkout"];

/// The flags as one machine has last seen them: for how many percent of the users each is on.
#[derive(Default)]
struct Flags {
    percent: HashMap<&'static str, u32>,
}

impl Flags {
    /// Asks the nearest replica alone, which costs next to nothing; a flag that was switched is
    /// seen a moment later there. `at_least`: a state that is known to exist is not missed.
    fn refresh(&mut self, client: &Client, at_least: LogIndex) -> Result<(), Box<dyn Error>> {
        let nearest = CallOptions {
            read_from: Some(ReadFrom::Nearest),
            read_quorum: Some(Quorum::Count(1)),
            min_version: at_least,
            ..CallOptions::default()
        };
        let keys = FLAGS.map(key);
        let found = client.with(nearest).get_many(&keys)?;
        for (flag, found) in FLAGS.into_iter().zip(found) {
            // A flag that nobody has set is off.
            let percent = found.map(|found| String::from_utf8(found.value)).transpose()?;
            self.percent.insert(flag, percent.map_or(Ok(0), |percent| percent.parse())?);
        }
        Ok(())
    }

    /// The same answer for the same user on every machine.
    fn is_on(&self, flag: &str, user: u32) -> bool {
        let share = user.wrapping_mul(2_654_435_761) >> 16;
        share % 100 < self.percent.get(flag).copied().unwrap_or(0)
    }

    fn count(&self, flag: &str) -> usize {
        (0..1000).filter(|user| self.is_on(flag, *user)).count()
    }
}

fn key(flag: &str) -> String {
    format!("flag/{flag}")
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(servers(), Options::default())?;
    let mut flags = Flags::default();

    let off = client.delete_many(&FLAGS.map(key))?;
    flags.refresh(&client, off.version)?;
    println!("at first: new-checkout for {} of 1000 users", flags.count("new-checkout"));

    let version = client.set(key("new-checkout"), "10")?;
    flags.refresh(&client, version)?;
    let some = flags.count("new-checkout");
    println!("10 %: for {some} of 1000 users; user 42: {}", flags.is_on("new-checkout", 42));

    // Both at once, or none.
    let version = client.set_many(&[(key("new-checkout"), "100"), (key("dark-mode"), "50")])?;
    flags.refresh(&client, version)?;
    let [half, all] = FLAGS.map(|flag| flags.count(flag));
    println!("the next step: new-checkout for {all} of 1000 users, dark-mode for {half}");

    let version = client.set(key("new-checkout"), "0")?;
    flags.refresh(&client, version)?;
    println!("it had a bug, and is off: for {} of 1000 users", flags.count("new-checkout"));
    assert!((50..150).contains(&some) && (400..600).contains(&half) && all == 1000);
    assert_eq!(flags.count("new-checkout"), 0);
    Ok(())
}

fn servers() -> Vec<String> {
    let given = std::env::args().nth(1).or_else(|| std::env::var("KVORUM_SERVERS").ok());
    let servers = given.unwrap_or_else(|| "127.0.0.1:6381,127.0.0.1:6382,127.0.0.1:6383".into());
    servers.split(',').map(str::to_owned).collect()
}
