//! Single servers as processes. Each answers when its value is there, and ends with it.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use super::process::{Process, command_line};

/// A running server.
pub struct Server {
    process: Process,
    address: SocketAddr,
    /// How it was started, for the report.
    command: String,
    /// Held open, so that it can print.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts `command`, which is kvorum up to the flag for its data, and waits until it is ready.
    /// What it logs goes to a file beside `data`.
    pub fn kvorum(mut command: Command, data: &Path) -> Result<Server, Box<dyn Error>> {
        let log = data.with_extension("stderr");
        command.arg("--data").arg(data);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut process = Process::spawn(&mut command)?;
        let mut stdout = BufReader::new(process.0.stdout.take().expect("it is piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready)?;
        let listen = ready.split_whitespace().find_map(|word| word.strip_prefix("listen="));
        let Some(listen) = listen.filter(|_| ready.starts_with("kvorum ready ")) else {
            let complaint = std::fs::read_to_string(&log)?;
            return Err(format!("kvorum did not start: {ready}{complaint}").into());
        };
        Ok(Server {
            process,
            address: listen.parse()?,
            command: command_line(&command),
            _stdout: Some(stdout),
        })
    }

    /// Starts `command`, which is Redis up to its address and the place of its data, and waits
    /// until it is ready.
    pub fn redis(mut command: Command, data: &Path) -> Result<Server, Box<dyn Error>> {
        // Redis cannot choose a port by itself.
        let address = free_addresses(1)[0];
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--save", "", "--dir"]).arg(data);
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command)?;
        let mut stdout = BufReader::new(process.0.stdout.take().expect("it is piped"));
        let mut log = String::new();
        while stdout.read_line(&mut log)? > 0 {
            if log.contains("Ready to accept connections") {
                // It goes on without its standard output.
                let command = command_line(&command);
                return Ok(Server { process, address, command, _stdout: None });
            }
        }
        Err(format!("'{}' did not start:\n{log}", command_line(&command)).into())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it was started.
    pub fn command(&self) -> &str {
        &self.command
    }
}

/// Addresses on loopback that nobody listens on. They are below the ports that the kernel gives to
/// outgoing connections, so that a server finds its own again after a restart. Another program may
/// still take one; then the server does not start, and says so.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    // Other processes begin elsewhere.
    let start = std::process::id().wrapping_mul(97);
    let ports = (0..COUNT).map(|step| FIRST + start.wrapping_add(step) % COUNT);
    let ports = ports.map(|port| u16::try_from(port).expect("it is below 32000"));
    let addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    addresses.filter(|address| TcpListener::bind(address).is_ok()).take(count).collect()
}
