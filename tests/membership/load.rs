//! Clients that write and read all the time, and must not notice anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvorum::client::{Client, Options};

use crate::servers;
use crate::support::cluster::Cluster;
use crate::support::{PATIENCE, Raises};

/// How many clients there are.
const CLIENTS: usize = 3;

/// Does something to a cluster while clients write and read. None of their requests may fail, and
/// each read must see the client's last write.
pub fn under_load(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster)) {
    let servers: Vec<String> = servers(cluster).split(',').map(str::to_owned).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (servers, is_over) = (&servers, &is_over);
                scope.spawn(move || ask(number, servers, is_over))
            })
            .collect();
        let raises = Raises(&is_over);
        act(cluster);
        drop(raises);
        for client in clients {
            let count = client.join().expect("no request fails");
            assert!(count > 0, "a client was never answered");
        }
    });
}

/// Writes and reads until it is over; answers how often.
fn ask(number: usize, servers: &[String], is_over: &AtomicBool) -> u64 {
    let options = Options { timeout: PATIENCE, ..Options::default() };
    let client = Client::connect(servers, options).expect("a server answers");
    let key = format!("key{number}");
    let mut count = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let value = count.to_string();
        client.set(&key, &value).expect("a write");
        let found = client.get(&key).expect("a read").expect("it was written");
        assert_eq!(found.value, value.as_bytes());
        count += 1;
    }
    count
}
