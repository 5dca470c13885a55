//! From a configuration to a running server.

use std::fmt;
use std::io;

use kvorum_protocol::membership::{Member, MemberList, Role};
use kvorum_protocol::{ClusterId, NodeId};

use super::listener::Listener;
use super::reactor::{Fatal, Reactor, Stop};
use super::server::{RedisProbe, Server};
use crate::config::Config;
use crate::core::{Node, NodeConfig, Recovery};

#[derive(Debug)]
pub struct ServeError;
impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("x")
    }
}

pub fn serve(config: Config) -> Result<(), ServeError> {
    let listener = Listener::bind(&config.listen).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let writer = crate::wal::Writer::open(&config.data);
    let node_config = NodeConfig {
        id: config.id,
        voters: vec![config.id],
        members: vec![1],
        write_quorum: config.write_quorum,
        read_quorum: config.read_quorum,
        quorum_timeout: std::time::Duration::from_millis(config.quorum_timeout_ms),
        memory_max: config.memory_bytes_max,
    };
    let node = Node::new(node_config, Recovery::new(1), 1 << 30);
    let server = Server {
        address: address.clone(),
        cluster_id: ClusterId(1),
        run_id: "0".into(),
        connections_max: config.connections_max,
        connections_total: 0,
        connections_rejected: 0,
        requests_total: 0,
        buffer_bytes: 0,
        lists: vec![],
        reply: vec![],
        redis_probe: RedisProbe::default(),
        config,
    };
    let fsync = server.config.fsync;
    let mut reactor = Reactor::new(listener, node, writer, fsync, server).unwrap();
    reactor.run_until_ready().unwrap();
    println!("kvorum ready id=1 listen={address}");
    let _ = reactor.run().unwrap();
    Ok(())
}
