//! Who serves what, and where: instances announce themselves and say again and again that they are
//! there; whoever needs the service picks one that has said so lately.
//!
//! `kvorum demo` in one window; here, with what it printed:
//! `KVORUM_SERVERS=... cargo run --example service_registry`

use std::error::Error;

use kvorum::client::{CallOptions, Client, Options, ReadFrom};

/// Instances have a number, and with it a key of their own: nobody overwrites another's entry.
const INSTANCES_MAX: u32 = 8;

/// Who has not been heard for so long is not there. Seconds of a clock that this example turns
/// itself, so that it need not wait.
const SILENCE_MAX_S: u64 = 10;

struct Registry {
    client: Client,
    service: &'static str,
}

impl Registry {
    fn key(&self, instance: u32) -> String {
        format!("service/{}/{instance}", self.service)
    }

    /// An instance says that it is there, and where.
    fn announce(&self, instance: u32, address: &str, now_s: u64) -> Result<(), Box<dyn Error>> {
        self.client.set(self.key(instance), format!("{now_s} {address}"))?;
        Ok(())
    }

    /// An instance takes its leave.
    fn leave(&self, instance: u32) -> Result<bool, Box<dyn Error>> {
        Ok(self.client.delete(self.key(instance))?.count == 1)
    }

    /// Who is there, as one moment of the log knows it. Any member of the cluster may answer.
    fn addresses(&self, now_s: u64) -> Result<Vec<String>, Box<dyn Error>> {
        let anybody =
            CallOptions { read_from: Some(ReadFrom::LeastLoaded), ..CallOptions::default() };
        let keys: Vec<String> = (0..INSTANCES_MAX).map(|instance| self.key(instance)).collect();
        let found = self.client.with(anybody).get_many(&keys)?;
        let lines = found.into_iter().flatten().map(|found| String::from_utf8(found.value));
        let mut addresses = Vec::new();
        for line in lines {
            let line = line?;
            let (said_s, address) = line.split_once(' ').ok_or("no entry of this registry")?;
            if now_s.saturating_sub(said_s.parse()?) <= SILENCE_MAX_S {
                addresses.push(address.to_owned());
            }
        }
        Ok(addresses)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(servers(), Options::default())?;
    let registry = Registry { client, service: "web" };
    (0..INSTANCES_MAX).try_for_each(|instance| registry.leave(instance).map(|_| ()))?;

    for instance in 0..3 {
        registry.announce(instance, &format!("10.0.0.{instance}:80"), 0)?;
    }
    println!("three instances announce themselves: {:?}", registry.addresses(0)?);

    println!("instance 1 shuts down: {}", registry.leave(1)?);
    println!("left: {:?}", registry.addresses(1)?);

    // Instance 0 says so every five seconds; instance 2 has crashed without a word.
    for now_s in [5, 10, 15] {
        registry.announce(0, "10.0.0.0:80", now_s)?;
    }
    let left = registry.addresses(15)?;
    println!("15 seconds later, instance 2 having crashed: {left:?}");
    assert_eq!(left, ["10.0.0.0:80"]);

    registry.announce(2, "10.0.0.12:8080", 16)?;
    let left = registry.addresses(16)?;
    println!("instance 2 comes back elsewhere: {left:?}");
    assert_eq!(left, ["10.0.0.0:80", "10.0.0.12:8080"]);
    Ok(())
}

fn servers() -> Vec<String> {
    let given = std::env::args().nth(1).or_else(|| std::env::var("KVORUM_SERVERS").ok());
    let servers = given.unwrap_or_else(|| "127.0.0.1:6381,127.0.0.1:6382,127.0.0.1:6383".into());
    servers.split(',').map(str::to_owned).collect()
}
