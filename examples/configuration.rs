//! The configuration of a program that runs on many machines: published in one piece, read in one
//! piece, and followed by its version.
//!
//! `kvorum demo` in one window; here, with what it printed:
//! `KVORUM_SERVERS=... cargo run --example configuration`

use std::error::Error;

use kvorum::client::{Client, LogIndex, Options};

const KEYS: [&str; 3] = ["config/database/host", "config/database/password", "config/limit"];

/// What a program on some machine has in force.
struct Running {
    version: LogIndex,
    values: Vec<String>,
}

impl Running {
    /// Looks whether there is something new, and takes it over as a whole: the three values are
    /// read at one point of the log, so that a new password never meets an old host.
    fn refresh(&mut self, client: &Client) -> Result<bool, Box<dyn Error>> {
        let found = client.get_many(&KEYS)?;
        let found: Option<Vec<_>> = found.into_iter().collect();
        let found = found.ok_or("the configuration is not complete")?;
        // The version of a key grows with every change, whoever makes it.
        let newest = found.iter().map(|value| value.version).max().expect("there are keys");
        if newest == self.version {
            return Ok(false);
        }
        self.version = newest;
        let text = found.into_iter().map(|value| String::from_utf8(value.value));
        self.values = text.collect::<Result<_, _>>()?;
        Ok(true)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(servers(), Options::default())?;
    let mut running = Running { version: LogIndex(0), values: Vec::new() };

    let first = publish(&client, ["db1.example", "secret", "100"])?;
    println!("an operator publishes version {}", first.0);
    assert!(running.refresh(&client)?);
    println!("the program runs with {:?}", running.values);

    assert!(!running.refresh(&client)?);
    println!("it looks again: nothing is new since version {}", running.version.0);

    let second = client.set("config/limit", "250")?;
    println!("an operator raises the limit: version {}", second.0);
    assert!(running.refresh(&client)?);
    println!("the program runs with {:?}", running.values);

    let third = publish(&client, ["db2.example", "another secret", "250"])?;
    println!("the database moves: version {}", third.0);
    assert!(running.refresh(&client)?);
    println!("the program runs with {:?}", running.values);
    assert!(first < second && second < third && running.version == third);
    Ok(())
}

/// One entry of the log, so one version: no reader sees a part of it.
fn publish(client: &Client, values: [&str; 3]) -> Result<LogIndex, Box<dyn Error>> {
    let pairs: Vec<_> = KEYS.into_iter().zip(values).collect();
    Ok(client.set_many(&pairs)?)
}

fn servers() -> Vec<String> {
    let given = std::env::args().nth(1).or_else(|| std::env::var("KVORUM_SERVERS").ok());
    let servers = given.unwrap_or_else(|| "127.0.0.1:6381,127.0.0.1:6382,127.0.0.1:6383".into());
    servers.split(',').map(str::to_owned).collect()
}
