//! How long nobody can write after `kill -9` of the leader. Clients are connected to the other
//! nodes before, so that only the failover counts.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::Process;
use crate::{PATIENCE, etcd, kvorum_cluster};

/// Between two writes through a node that has refused one.
const INTERVAL: Duration = Duration::from_millis(1);

/// Kills the leader of kvorum, and starts it again after another has acknowledged a write.
pub fn of_kvorum(cluster: &mut kvorum_cluster::Cluster) -> Result<Duration, Box<dyn Error>> {
    let leader = cluster.leader()?;
    let others = cluster.others(leader).map(kvorum_cluster::Text::connect);
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let (acknowledged, first) = mpsc::channel();
    let is_over = AtomicBool::new(false);
    let gap = thread::scope(|scope| {
        let start = Instant::now();
        cluster.kill(leader);
        for mut node in others {
            let (acknowledged, is_over) = (acknowledged.clone(), &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    match node.ask("SET failover over").as_deref() {
                        Ok("OK") => {
                            // Only the first one counts, and waits to be received.
                            let _ = acknowledged.send(Instant::now());
                            return;
                        }
                        Ok(_) => thread::sleep(INTERVAL),
                        Err(_) => return,
                    }
                }
            });
        }
        let end = first.recv_timeout(PATIENCE);
        is_over.store(true, Ordering::Relaxed);
        end.map(|end| end - start)
    })
    .map_err(|_| "kvorum has not acknowledged a write after its leader was killed")?;
    cluster.start_node(leader)?;
    Ok(gap)
}

/// Kills the leader of etcd, and starts it again after another has acknowledged a put.
pub fn of_etcd(cluster: &mut etcd::Cluster, generator: &Path) -> Result<Duration, Box<dyn Error>> {
    let leader = cluster.leader()?;
    let mut command = Command::new(generator);
    command.args(["--first-ack", "--endpoints", &cluster.others(leader)]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut probe = Process::spawn(&mut command)?;
    let mut stdin = probe.0.stdin.take().expect("it is piped");
    let mut stdout = BufReader::new(probe.0.stdout.take().expect("it is piped")).lines();
    let mut says = |word: &str| match stdout.next() {
        Some(Ok(line)) if line == word => Ok(()),
        other => Err(format!("the generator says {other:?} for '{word}'")),
    };
    says("ready")?;
    let start = Instant::now();
    cluster.kill(leader);
    stdin.write_all(b"go\n")?;
    says("acknowledged")?;
    let gap = start.elapsed();
    cluster.start_node(leader)?;
    Ok(gap)
}
