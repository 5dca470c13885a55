//! When does a cluster that has lost its leader acknowledge a put again?

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::kv::Connection;

/// Between two puts through an endpoint. They do not wait for each other: one that a follower has
/// sent to a dead leader is answered seconds later, or never.
const INTERVAL: Duration = Duration::from_millis(5);

/// Says `ready`, waits for a line, and says `acknowledged` when any endpoint has stored a value.
pub async fn first_ack(endpoints: &[SocketAddr]) -> Result<(), Box<dyn Error>> {
    let mut connections = Vec::new();
    for &endpoint in endpoints {
        connections.push(Connection::open(endpoint).await?);
    }
    println!("ready");
    BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
    let (acknowledged, mut first) = mpsc::channel(1);
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = first.recv() => break,
            _ = ticks.tick() => {}
        }
        for connection in &connections {
            let (connection, acknowledged) = (connection.clone(), acknowledged.clone());
            tokio::spawn(async move {
                if connection.put(b"failover", b"over").await.is_ok() {
                    // Only the first one counts.
                    let _ = acknowledged.try_send(());
                }
            });
        }
    }
    println!("acknowledged");
    Ok(())
}
